//! SRTP and SRTCP with AEAD_AES_128_GCM (RFC 3711, RFC 7714): packets are opened and sealed where they lie.
//!
//! One [`Opener`] and one [`Sealer`] per connection. An opener keeps what it knows of each source: how often its sequence
//! number wrapped, and which packets it has seen. A sealer keeps nothing for RTP, because the extended sequence number comes
//! with each packet; the caller never seals two different packets under one number.

use aws_lc_rs::{
    aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    cipher::{self, EncryptingKey, EncryptionContext, UnboundCipherKey},
    error::Unspecified,
    iv::FixedLength,
};

/// Bytes a sealed packet is longer than the plain one.
pub const RTP_OVERHEAD: usize = TAG;
/// Bytes a sealed RTCP packet is longer than the plain one: tag and index.
pub const RTCP_OVERHEAD: usize = TAG + 4;
/// Bytes of keying material that DTLS exports for this profile: both master keys, then both salts.
pub const KEYING_MATERIAL: usize = 2 * (KEY + SALT);

const KEY: usize = 16;
const SALT: usize = 12;
const TAG: usize = 16;
/// RTCP header and sender, which stay readable.
const RTCP_CLEAR: usize = 8;
/// The flag that says an SRTCP packet is encrypted; the other 31 bits are its index.
const ENCRYPTED: u32 = 1 << 31;
/// Sources whose state one connection may hold; an honest client has one per track, and few tracks.
const SOURCES: usize = 64;

/// Which half of the keying material is whose (RFC 5764, section 4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// We were the DTLS client.
    Client,
    /// We were the DTLS server.
    Server,
}

/// Why a packet was not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Too short to hold what every packet has.
    #[error("packet too short")]
    Short,
    /// Its number was seen before, or is too old to know.
    #[error("packet replayed or too old")]
    Replayed,
    /// It was not sealed with our key, or was changed.
    #[error("packet not authentic")]
    Forged,
    /// An RTCP packet that is not encrypted, which this profile does not allow here.
    #[error("control packet not encrypted")]
    Clear,
    /// More sources than one connection may have.
    #[error("too many sources")]
    Sources,
}

/// The two directions of a connection, from DTLS keying material.
///
/// # Errors
///
/// When the crypto library refuses a key, which it does not for keys of this length.
pub fn directions(
    material: &[u8; KEYING_MATERIAL],
    side: Side,
) -> Result<(Opener, Sealer), Unspecified> {
    let (keys, salts) = material.split_at(2 * KEY);
    let (client_key, server_key) = keys.split_at(KEY);
    let (client_salt, server_salt) = salts.split_at(SALT);
    let client = (client_key, client_salt);
    let server = (server_key, server_salt);
    let (theirs, ours) = match side {
        Side::Client => (server, client),
        Side::Server => (client, server),
    };
    let opener = Opener {
        rtp: Protection::derive(theirs, 0)?,
        rtcp: Protection::derive(theirs, 3)?,
        rtp_sources: Vec::new(),
        rtcp_sources: Vec::new(),
    };
    let sealer = Sealer {
        rtp: Protection::derive(ours, 0)?,
        rtcp: Protection::derive(ours, 3)?,
        rtcp_index: 0,
    };
    Ok((opener, sealer))
}

/// Opens what the other side sealed.
pub struct Opener {
    rtp: Protection,
    rtcp: Protection,
    rtp_sources: Vec<(u32, Window)>,
    rtcp_sources: Vec<(u32, Window)>,
}

impl Opener {
    /// Opens an RTP packet of `source` with this sequence number, whose header is `header` bytes long. The payload ends
    /// [`RTP_OVERHEAD`] bytes before the packet did.
    ///
    /// Returns the sequence number extended by its roll-over count.
    ///
    /// # Errors
    ///
    /// See [`Refused`]; then nothing is remembered of the packet, and its bytes are worthless.
    pub fn open_rtp(
        &mut self,
        packet: &mut [u8],
        header: usize,
        source: u32,
        sequence: u16,
    ) -> Result<u64, Refused> {
        let index = match window(&self.rtp_sources, source) {
            Some(window) => {
                let index = super::rtp::extend(window.highest, sequence);
                if !window.is_new(index) {
                    return Err(Refused::Replayed);
                }
                index
            }
            None => u64::from(sequence),
        };
        let (header, sealed) = packet.split_at_mut_checked(header).ok_or(Refused::Short)?;
        let nonce = self.rtp.nonce(source, rtp_counter(index));
        self.rtp.open(nonce, header, sealed)?;
        accept(&mut self.rtp_sources, source, index)?;
        Ok(index)
    }

    /// Opens an SRTCP packet; returns the length of the plain one, which starts where the packet did.
    ///
    /// # Errors
    ///
    /// See [`Refused`].
    pub fn open_rtcp(&mut self, packet: &mut [u8]) -> Result<usize, Refused> {
        let trailer = packet.len().checked_sub(4).ok_or(Refused::Short)?;
        let (body, trailer) = packet.split_at_mut_checked(trailer).ok_or(Refused::Short)?;
        let trailer = <[u8; 4]>::try_from(&*trailer).map_err(|_| Refused::Short)?;
        let word = u32::from_be_bytes(trailer);
        if word & ENCRYPTED == 0 {
            return Err(Refused::Clear);
        }
        let index = word & !ENCRYPTED;
        let (clear, sealed) = body
            .split_at_mut_checked(RTCP_CLEAR)
            .ok_or(Refused::Short)?;
        let clear = <[u8; RTCP_CLEAR]>::try_from(&*clear).map_err(|_| Refused::Short)?;
        let [_, _, _, _, source @ ..] = clear;
        let source = u32::from_be_bytes(source);
        if window(&self.rtcp_sources, source).is_some_and(|window| !window.is_new(index.into())) {
            return Err(Refused::Replayed);
        }
        let nonce = self.rtcp.nonce(source, rtcp_counter(index));
        let plain = self.rtcp.open(nonce, &rtcp_aad(clear, word), sealed)?;
        accept(&mut self.rtcp_sources, source, index.into())?;
        Ok(plain.saturating_add(RTCP_CLEAR))
    }
}

/// Seals what we send.
pub struct Sealer {
    rtp: Protection,
    rtcp: Protection,
    rtcp_index: u32,
}

impl Sealer {
    /// Seals the RTP packet in the first `length` bytes of `buffer`, whose header is `header` bytes long, and returns how
    /// many bytes it now has. `index` is its extended sequence number, of which the header holds the lower 16 bits.
    ///
    /// The caller seals a number again only for the very same bytes: another packet under it would reveal both.
    ///
    /// `None` when `buffer` has no room for [`RTP_OVERHEAD`] more bytes.
    pub fn seal_rtp(
        &self,
        buffer: &mut [u8],
        header: usize,
        length: usize,
        source: u32,
        index: u64,
    ) -> Option<usize> {
        let nonce = self.rtp.nonce(source, rtp_counter(index));
        let (packet, rest) = buffer.split_at_mut_checked(length)?;
        let (header, payload) = packet.split_at_mut_checked(header)?;
        self.rtp.seal(nonce, header, payload, rest)?;
        length.checked_add(RTP_OVERHEAD)
    }

    /// The sealed form of an RTCP packet; `None` when it is too short to be one, or after 2^31 packets, when the
    /// connection needs new keys.
    pub fn seal_rtcp(&mut self, plain: &[u8]) -> Option<Vec<u8>> {
        let index = self
            .rtcp_index
            .checked_add(1)
            .filter(|index| index & ENCRYPTED == 0)?;
        self.rtcp_index = index;
        let word = index | ENCRYPTED;
        let clear = *plain.first_chunk::<RTCP_CLEAR>()?;
        let [_, _, _, _, source @ ..] = clear;
        let nonce = self
            .rtcp
            .nonce(u32::from_be_bytes(source), rtcp_counter(index));
        let mut packet = Vec::with_capacity(plain.len().saturating_add(RTCP_OVERHEAD));
        packet.extend_from_slice(plain);
        packet.extend_from_slice(&[0; TAG]);
        let (_, sealed) = packet.split_at_mut_checked(RTCP_CLEAR)?;
        let (payload, tag) = sealed.split_at_mut_checked(plain.len().checked_sub(RTCP_CLEAR)?)?;
        self.rtcp
            .seal(nonce, &rtcp_aad(clear, word), payload, tag)?;
        packet.extend_from_slice(&word.to_be_bytes());
        Some(packet)
    }
}

/// One key with its salt.
struct Protection {
    key: LessSafeKey,
    salt: [u8; SALT],
}

impl Protection {
    /// The session key and salt of a master key and salt; `label` is 0 for RTP, 3 for RTCP (RFC 3711, section 4.3.2).
    fn derive((key, salt): (&[u8], &[u8]), label: u8) -> Result<Self, Unspecified> {
        let mut session_key = [0; KEY];
        derive(key, salt, label, &mut session_key)?;
        let mut session_salt = [0; SALT];
        derive(key, salt, label.wrapping_add(2), &mut session_salt)?;
        Ok(Self {
            key: LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &session_key)?),
            salt: session_salt,
        })
    }

    /// The nonce of one packet (RFC 7714, sections 8.1 and 9.1).
    fn nonce(&self, source: u32, counter: [u8; 6]) -> Nonce {
        let mut nonce = self.salt;
        let packet = [0, 0]
            .into_iter()
            .chain(source.to_be_bytes())
            .chain(counter);
        for (byte, value) in nonce.iter_mut().zip(packet) {
            *byte ^= value;
        }
        Nonce::assume_unique_for_key(nonce)
    }

    fn open(&self, nonce: Nonce, aad: &[u8], sealed: &mut [u8]) -> Result<usize, Refused> {
        let plain = self.key.open_in_place(nonce, Aad::from(aad), sealed);
        plain.map(|plain| plain.len()).map_err(|_| Refused::Forged)
    }

    /// Seals `payload` in place and writes the tag to the start of `room`.
    fn seal(&self, nonce: Nonce, aad: &[u8], payload: &mut [u8], room: &mut [u8]) -> Option<()> {
        let place = room.get_mut(..TAG)?;
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce, Aad::from(aad), payload)
            .ok()?;
        place.copy_from_slice(tag.as_ref());
        Some(())
    }
}

/// Roll-over count and sequence number, as the nonce holds them.
fn rtp_counter(index: u64) -> [u8; 6] {
    let [_, _, counter @ ..] = index.to_be_bytes();
    counter
}

/// Two zero bytes and the SRTCP index, as the nonce holds them.
fn rtcp_counter(index: u32) -> [u8; 6] {
    rtp_counter(index.into())
}

/// What is authenticated besides the encrypted part: the readable header, and the last word.
fn rtcp_aad(clear: [u8; RTCP_CLEAR], word: u32) -> [u8; RTCP_CLEAR + 4] {
    let mut aad = [0; RTCP_CLEAR + 4];
    for (byte, value) in aad
        .iter_mut()
        .zip(clear.into_iter().chain(word.to_be_bytes()))
    {
        *byte = value;
    }
    aad
}

/// The key derivation of RFC 3711, section 4.3.3: AES in counter mode over zeros, starting at salt and label. Salts of 96
/// bits are filled up with zeros (RFC 7714, section 11).
fn derive(key: &[u8], salt: &[u8], label: u8, out: &mut [u8]) -> Result<(), Unspecified> {
    let mut start = [0; 16];
    for (byte, value) in start.iter_mut().zip(salt) {
        *byte = *value;
    }
    if let Some(byte) = start.get_mut(7) {
        *byte ^= label;
    }
    let key = UnboundCipherKey::new(&cipher::AES_128, key)?;
    let start = EncryptionContext::Iv128(FixedLength::from(start));
    EncryptingKey::ctr(key)?.less_safe_encrypt(out, start)?;
    Ok(())
}

/// The packets of one source that were seen lately, by extended number.
///
/// As wide as a retransmission may be late: at 1,000 packets/s a second. A new window has seen its first packet.
struct Window {
    highest: u64,
    /// Bit `n % SEEN` says whether packet `n` was seen, for the last `SEEN` numbers.
    seen: [u64; SEEN as usize / 64],
}

/// Packets that a window remembers.
const SEEN: u64 = 1_024;

impl Window {
    fn new(first: u64) -> Self {
        let mut window = Self {
            highest: first,
            seen: [0; _],
        };
        window.accept(first);
        window
    }

    fn is_new(&self, index: u64) -> bool {
        if index > self.highest {
            return true;
        }
        let (word, bit) = place(index);
        self.highest.wrapping_sub(index) < SEEN
            && self.seen.get(word).is_some_and(|word| word & bit == 0)
    }

    /// Remembers a packet that was [new](Self::is_new) and authentic.
    fn accept(&mut self, index: u64) {
        if index > self.highest {
            let skipped = index.wrapping_sub(self.highest).min(SEEN);
            for n in 1..=skipped {
                let (word, bit) = place(self.highest.wrapping_add(n));
                if let Some(word) = self.seen.get_mut(word) {
                    *word &= !bit;
                }
            }
            self.highest = index;
        }
        let (word, bit) = place(index);
        if let Some(word) = self.seen.get_mut(word) {
            *word |= bit;
        }
    }
}

/// Word and bit of a packet in a window.
fn place(index: u64) -> (usize, u64) {
    let word = usize::try_from(index % SEEN / 64).unwrap_or(0);
    (word, 1 << (index % 64))
}

fn window(sources: &[(u32, Window)], source: u32) -> Option<&Window> {
    sources
        .iter()
        .find(|(known, _)| *known == source)
        .map(|(_, window)| window)
}

/// Remembers an authentic packet of `source`, which may be a new one.
fn accept(sources: &mut Vec<(u32, Window)>, source: u32, index: u64) -> Result<(), Refused> {
    let known = sources.iter_mut().find(|(known, _)| *known == source);
    if let Some((_, window)) = known {
        window.accept(index);
    } else if sources.len() < SOURCES {
        sources.push((source, Window::new(index)));
    } else {
        return Err(Refused::Sources);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rtc_srtp::{context::Context, protection_profile::ProtectionProfile};

    use super::*;

    const SOURCE: u32 = 0x0102_0304;

    fn material() -> [u8; KEYING_MATERIAL] {
        std::array::from_fn(|n| u8::try_from(n).unwrap() ^ 0x5a)
    }

    fn server() -> (Opener, Sealer) {
        directions(&material(), Side::Server).unwrap()
    }

    fn client() -> (Opener, Sealer) {
        directions(&material(), Side::Client).unwrap()
    }

    /// An independent implementation with the keys of one direction.
    fn library(of: Side) -> Context {
        let (key, salt) = match of {
            Side::Client => (0..16, 32..44),
            Side::Server => (16..32, 44..56),
        };
        let provider = rtc_srtp::crypto::default_provider().unwrap();
        let profile = ProtectionProfile::AeadAes128Gcm;
        Context::new(
            &material()[key],
            &material()[salt],
            profile,
            None,
            None,
            provider.crypto(),
        )
        .unwrap()
    }

    /// An RTP packet without extensions, in a buffer with room for the tag.
    fn rtp(sequence: u16) -> (Vec<u8>, usize) {
        let mut packet = vec![0x80, 96];
        packet.extend_from_slice(&sequence.to_be_bytes());
        packet.extend_from_slice(&[0, 0, 1, 0]);
        packet.extend_from_slice(&SOURCE.to_be_bytes());
        packet.extend_from_slice(b"media");
        let length = packet.len();
        packet.resize(length + RTP_OVERHEAD, 0);
        (packet, length)
    }

    fn sealed(sealer: &Sealer, index: u64) -> Vec<u8> {
        let (mut packet, length) = rtp(index as u16);
        assert_eq!(
            sealer.seal_rtp(&mut packet, 12, length, SOURCE, index),
            Some(length + RTP_OVERHEAD)
        );
        packet
    }

    #[test]
    fn an_independent_implementation_opens_what_we_seal() {
        let mut library = library(Side::Server);
        let (_, sealer) = server();
        for index in [1, 2, 65_535, 65_536, 65_537] {
            let plain = library.decrypt_rtp(&sealed(&sealer, index)).unwrap();
            assert!(plain.ends_with(b"media"), "packet {index}");
        }
    }

    #[test]
    fn we_open_what_an_independent_implementation_seals() {
        let mut library = library(Side::Client);
        let (mut opener, _) = server();
        for index in (65_000..66_000).chain([66_010]) {
            let (packet, length) = rtp(index as u16);
            let mut packet = library.encrypt_rtp(&packet[..length]).unwrap();
            let opened = opener.open_rtp(&mut packet, 12, SOURCE, index as u16);
            assert_eq!(opened, Ok(index), "the roll-over is counted");
            assert_eq!(&packet[12..17], b"media");
        }
    }

    #[test]
    fn control_packets_go_both_ways_with_an_independent_implementation() {
        let plain = [0x80, 201, 0, 1, 1, 2, 3, 4, 9, 9, 9, 9];
        let (mut opener, mut sealer) = server();
        let packet = sealer.seal_rtcp(&plain).unwrap();
        assert_eq!(
            &library(Side::Server).decrypt_rtcp(&packet).unwrap()[..],
            &plain
        );
        let mut packet = library(Side::Client).encrypt_rtcp(&plain).unwrap();
        let length = opener.open_rtcp(&mut packet).unwrap();
        assert_eq!(&packet[..length], &plain);
    }

    #[test]
    fn a_packet_is_opened_once() {
        let (_, sealer) = client();
        let (mut opener, _) = server();
        for index in [10, 12, 11, 1_030] {
            let mut packet = sealed(&sealer, index);
            assert_eq!(
                opener.open_rtp(&mut packet.clone(), 12, SOURCE, index as u16),
                Ok(index)
            );
            let again = opener.open_rtp(&mut packet, 12, SOURCE, index as u16);
            assert_eq!(again, Err(Refused::Replayed), "packet {index}");
        }
        let mut late = sealed(&sealer, 5);
        assert_eq!(
            opener.open_rtp(&mut late, 12, SOURCE, 5),
            Err(Refused::Replayed),
            "too old to know"
        );
    }

    #[test]
    fn a_control_packet_is_opened_once() {
        let plain = [0x80, 201, 0, 1, 1, 2, 3, 4];
        let (_, mut sealer) = client();
        let (mut opener, _) = server();
        let packet = sealer.seal_rtcp(&plain).unwrap();
        assert_eq!(opener.open_rtcp(&mut packet.clone()), Ok(8));
        assert_eq!(
            opener.open_rtcp(&mut packet.clone()),
            Err(Refused::Replayed)
        );
    }

    #[test]
    fn a_changed_packet_is_refused_and_forgotten() {
        let (_, sealer) = client();
        let (mut opener, _) = server();
        let packet = sealed(&sealer, 7);
        for position in 0..packet.len() {
            let mut changed = packet.clone();
            changed[position] ^= 1;
            assert_eq!(
                opener.open_rtp(&mut changed, 12, SOURCE, 7),
                Err(Refused::Forged),
                "byte {position}"
            );
        }
        assert_eq!(opener.open_rtp(&mut packet.clone(), 12, SOURCE, 7), Ok(7));
    }

    #[test]
    fn a_reflected_packet_is_refused() {
        let (mut opener, sealer) = server();
        let mut packet = sealed(&sealer, 7);
        assert_eq!(
            opener.open_rtp(&mut packet, 12, SOURCE, 7),
            Err(Refused::Forged)
        );
    }

    #[test]
    fn a_clear_control_packet_is_refused() {
        let (mut opener, _) = server();
        let mut packet = vec![0x80, 201, 0, 1, 1, 2, 3, 4, 0, 0, 0, 1];
        assert_eq!(opener.open_rtcp(&mut packet), Err(Refused::Clear));
    }

    #[test]
    fn a_connection_has_a_bounded_number_of_sources() {
        let (_, sealer) = client();
        let (mut opener, _) = server();
        let mut open = |source: u32| {
            let (mut packet, length) = rtp(1);
            sealer.seal_rtp(&mut packet, 12, length, source, 1).unwrap();
            opener.open_rtp(&mut packet, 12, source, 1)
        };
        assert!((0..SOURCES as u32).all(|source| open(source).is_ok()));
        assert_eq!(open(SOURCES as u32), Err(Refused::Sources));
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_without_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..100), header in 0..120usize,
        ) {
            let (mut opener, _) = server();
            prop_assert!(opener.open_rtp(&mut bytes.clone(), header, SOURCE, 1).is_err());
            prop_assert!(opener.open_rtcp(&mut bytes.clone()).is_err());
        }

        /// The window against the plainest model: a set of the last numbers.
        #[test]
        fn a_window_knows_what_it_has_seen(start in 0..1u64 << 40, steps in proptest::collection::vec(-1_500..1_500i64, 1..300)) {
            let mut window = Window::new(start);
            let mut seen = std::collections::BTreeSet::from([start]);
            for step in steps {
                let index = window.highest.saturating_add_signed(step);
                let highest = *seen.last().unwrap();
                let new = index > highest || highest - index < SEEN && !seen.contains(&index);
                prop_assert_eq!(window.is_new(index), new);
                if new {
                    window.accept(index);
                    seen.insert(index);
                }
            }
        }
    }
}
