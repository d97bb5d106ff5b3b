//! STUN binding requests and their answers (RFC 8489), as much of it as an ICE-lite server needs (RFC 8445).
//!
//! Own code rather than a general codec because it stands before every check: it reads without allocating, stops at the
//! message integrity (what follows is not protected by it), and can be given any bytes.

use std::net::{IpAddr, SocketAddr};

use aws_lc_rs::hmac;

const HEADER: usize = 20;
const MAGIC_COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
const BINDING_REQUEST: u16 = 0x0001;
const BINDING_SUCCESS: u16 = 0x0101;
const USERNAME: u16 = 0x0006;
const MESSAGE_INTEGRITY: u16 = 0x0008;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
const USE_CANDIDATE: u16 = 0x0025;
const FINGERPRINT: u16 = 0x8028;
/// Added to the CRC so that a fingerprint differs from that of a protocol inside (RFC 8489, section 14.7).
const FINGERPRINT_XOR: u32 = 0x5354_554e;
/// Bytes of a message integrity: type, length and an HMAC-SHA1.
const INTEGRITY_ATTRIBUTE: usize = 24;
/// Bytes of a fingerprint: type, length and a CRC-32.
const FINGERPRINT_ATTRIBUTE: usize = 8;

/// A binding request as it came; nothing in it may be believed before [`Request::verify`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// Identifies the request; the answer repeats it.
    pub transaction: [u8; 12],
    /// Our user name fragment, the part of USERNAME before the colon.
    pub local_ufrag: &'a str,
    /// The sender's user name fragment.
    pub remote_ufrag: &'a str,
    /// Whether the sender chose this path (RFC 8445, section 7.2.2).
    pub use_candidate: bool,
    message: &'a [u8],
    integrity_at: usize,
}

impl<'a> Request<'a> {
    /// Reads a binding request. `None` for anything else, and for one without user name, integrity or a right fingerprint.
    pub fn parse(datagram: &'a [u8]) -> Option<Self> {
        let (header, attributes) = datagram.split_at_checked(HEADER)?;
        let kind = u16::from_be_bytes(*header.first_chunk()?);
        let length = u16::from_be_bytes(*header.get(2..)?.first_chunk()?);
        if kind != BINDING_REQUEST
            || header.get(4..8)? != MAGIC_COOKIE
            || usize::from(length) != attributes.len()
        {
            return None;
        }
        let mut request = Self {
            transaction: *header.get(8..)?.first_chunk()?,
            local_ufrag: "",
            remote_ufrag: "",
            use_candidate: false,
            message: datagram,
            integrity_at: 0,
        };
        let mut at = HEADER;
        let mut rest = attributes;
        while !rest.is_empty() {
            let (kind, value, next) = attribute(rest)?;
            match kind {
                FINGERPRINT => {
                    let covered = datagram.get(..at)?;
                    let expected = crc32fast::hash(covered) ^ FINGERPRINT_XOR;
                    let right = value == expected.to_be_bytes() && next.is_empty();
                    return (right && request.integrity_at != 0).then_some(request);
                }
                _ if request.integrity_at != 0 => {} // not protected, so not read
                USERNAME => {
                    (request.local_ufrag, request.remote_ufrag) =
                        std::str::from_utf8(value).ok()?.split_once(':')?;
                }
                USE_CANDIDATE => request.use_candidate = true,
                MESSAGE_INTEGRITY if value.len() == 20 => request.integrity_at = at,
                MESSAGE_INTEGRITY => return None,
                _ => {}
            }
            at = datagram.len().checked_sub(next.len())?;
            rest = next;
        }
        None // ICE requires the fingerprint (RFC 8445, section 7.1.1), and it was not there
    }

    /// Whether the sender knew `password`.
    pub fn verify(&self, password: &str) -> bool {
        let Some((covered, rest)) = self.message.split_at_checked(self.integrity_at) else {
            return false;
        };
        let (Some(header), Some(attributes), Some(tag)) = (
            covered.first_chunk::<HEADER>(),
            covered.get(HEADER..),
            rest.get(4..INTEGRITY_ATTRIBUTE),
        ) else {
            return false;
        };
        // The length in the header is taken as if the integrity were the last attribute.
        let length = attributes.len().wrapping_add(INTEGRITY_ATTRIBUTE);
        let mut header = *header;
        set_length(&mut header, length);
        let mut message = Vec::with_capacity(covered.len());
        message.extend_from_slice(&header);
        message.extend_from_slice(attributes);
        hmac::verify(&key(password), &message, tag).is_ok()
    }

    /// The success response: `source` is the address we saw, `password` is ours.
    pub fn success(&self, source: SocketAddr, password: &str) -> Vec<u8> {
        let mut message = Vec::with_capacity(80);
        message.extend_from_slice(&BINDING_SUCCESS.to_be_bytes());
        message.extend_from_slice(&[0, 0]);
        message.extend_from_slice(&MAGIC_COOKIE);
        message.extend_from_slice(&self.transaction);
        xor_mapped_address(&mut message, source, &self.transaction);
        append_integrity(&mut message, password);
        append_fingerprint(&mut message);
        message
    }
}

/// A binding request of a client, with integrity and fingerprint; what [`Request::parse`] reads.
pub fn request(
    transaction: [u8; 12],
    username: &str,
    password: &str,
    use_candidate: bool,
) -> Vec<u8> {
    let mut message = Vec::with_capacity(128);
    message.extend_from_slice(&BINDING_REQUEST.to_be_bytes());
    message.extend_from_slice(&[0, 0]);
    message.extend_from_slice(&MAGIC_COOKIE);
    message.extend_from_slice(&transaction);
    append(&mut message, USERNAME, username.as_bytes());
    if use_candidate {
        append(&mut message, USE_CANDIDATE, &[]);
    }
    append_integrity(&mut message, password);
    append_fingerprint(&mut message);
    message
}

/// Whether a datagram is a binding success response.
pub fn is_success(datagram: &[u8]) -> bool {
    datagram.len() >= HEADER && datagram.starts_with(&BINDING_SUCCESS.to_be_bytes())
}

/// The first attribute: its type, its value, and what follows its padding.
fn attribute(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let kind = u16::from_be_bytes(*bytes.first_chunk()?);
    let length = usize::from(u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?));
    let body = bytes.get(4..)?;
    let value = body.get(..length)?;
    Some((kind, value, body.get(length.next_multiple_of(4)..)?))
}

fn append(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(value.len()).unwrap_or(u16::MAX);
    message.extend_from_slice(&kind.to_be_bytes());
    message.extend_from_slice(&length.to_be_bytes());
    message.extend_from_slice(value);
    message.resize(message.len().next_multiple_of(4), 0);
}

fn append_integrity(message: &mut Vec<u8>, password: &str) {
    let length = message
        .len()
        .wrapping_sub(HEADER)
        .wrapping_add(INTEGRITY_ATTRIBUTE);
    set_length(message, length);
    let tag = hmac::sign(&key(password), message);
    append(message, MESSAGE_INTEGRITY, tag.as_ref());
}

fn append_fingerprint(message: &mut Vec<u8>) {
    let length = message
        .len()
        .wrapping_sub(HEADER)
        .wrapping_add(FINGERPRINT_ATTRIBUTE);
    set_length(message, length);
    let fingerprint = crc32fast::hash(message) ^ FINGERPRINT_XOR;
    append(message, FINGERPRINT, &fingerprint.to_be_bytes());
}

fn set_length(message: &mut [u8], length: usize) {
    if let Some(field) = message.get_mut(2..4) {
        field.copy_from_slice(&u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes());
    }
}

/// XOR-MAPPED-ADDRESS (RFC 8489, section 14.2): the address, hidden from middle boxes that rewrite what they recognise.
fn xor_mapped_address(message: &mut Vec<u8>, address: SocketAddr, transaction: &[u8; 12]) {
    let port = address.port() ^ 0x2112;
    let mut mask = [0; 16];
    for (to, from) in mask.iter_mut().zip(MAGIC_COOKIE.iter().chain(transaction)) {
        *to = *from;
    }
    let mut value = vec![0];
    let mut push = |family: u8, octets: &[u8]| {
        value.push(family);
        value.extend_from_slice(&port.to_be_bytes());
        value.extend(octets.iter().zip(mask).map(|(octet, mask)| octet ^ mask));
    };
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => push(1, &ip.octets()),
        IpAddr::V6(ip) => push(2, &ip.octets()),
    }
    append(message, XOR_MAPPED_ADDRESS, &value);
}

fn key(password: &str) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, password.as_bytes())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rtc_stun::{
        fingerprint::FINGERPRINT as LibraryFingerprint,
        integrity::MessageIntegrity,
        message::{BINDING_SUCCESS, Getter, Message},
        xoraddr::XorMappedAddress,
    };

    use super::*;

    const TRANSACTION: [u8; 12] = [7; 12];

    fn sample() -> Vec<u8> {
        request(TRANSACTION, "ours:theirs", "secret", true)
    }

    #[test]
    fn a_request_is_read_and_its_integrity_checked() {
        let bytes = sample();
        let request = Request::parse(&bytes).unwrap();
        assert_eq!(
            (request.local_ufrag, request.remote_ufrag),
            ("ours", "theirs")
        );
        assert_eq!(request.transaction, TRANSACTION);
        assert!(request.use_candidate);
        assert!(request.verify("secret"));
        assert!(!request.verify("Secret"));
        assert!(!request.verify(""));
    }

    #[test]
    fn every_changed_bit_is_noticed() {
        for position in 0..sample().len() * 8 {
            let mut bytes = sample();
            bytes[position / 8] ^= 1 << (position % 8);
            let accepted = Request::parse(&bytes).is_some_and(|request| request.verify("secret"));
            assert!(!accepted, "bit {position}");
        }
    }

    #[test]
    fn what_follows_the_integrity_is_not_read() {
        let mut bytes = request(TRANSACTION, "ours:theirs", "secret", false);
        bytes.truncate(bytes.len() - FINGERPRINT_ATTRIBUTE);
        append(&mut bytes, USE_CANDIDATE, &[]);
        append_fingerprint(&mut bytes);
        let request = Request::parse(&bytes).unwrap();
        assert!(request.verify("secret"));
        assert!(!request.use_candidate);
    }

    #[test]
    fn an_independent_codec_reads_the_answer() {
        for address in ["192.0.2.7:4711", "[2001:db8::9]:9"] {
            let address: SocketAddr = address.parse().unwrap();
            let bytes = sample();
            let answer = Request::parse(&bytes).unwrap().success(address, "secret");
            assert!(is_success(&answer));
            let mut message = Message::new();
            message.unmarshal_binary(&answer).unwrap();
            assert_eq!(
                (message.typ, message.transaction_id.0),
                (BINDING_SUCCESS, TRANSACTION)
            );
            LibraryFingerprint.check(&message).unwrap();
            let provider = rtc_srtp::crypto::default_provider().unwrap();
            MessageIntegrity::check(&mut message, b"secret", provider.crypto()).unwrap();
            let mut mapped = XorMappedAddress::default();
            mapped.get_from(&message).unwrap();
            assert_eq!(SocketAddr::new(mapped.ip, mapped.port), address);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Some(request) = Request::parse(&bytes) {
                request.verify("secret");
            }
        }

        #[test]
        fn a_damaged_request_is_read_without_panic(cut in 0..200usize, at in 0..200usize, byte: u8) {
            let mut bytes = sample();
            bytes.truncate(cut);
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
            if let Some(request) = Request::parse(&bytes) {
                request.verify("secret");
            }
        }
    }
}
