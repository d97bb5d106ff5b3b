//! The encrypted connection of a peer: DTLS 1.2 (RFC 6347), which authenticates the client by the certificate its offer named
//! and yields the SRTP keys (RFC 5764).
//!
//! The rest of the media plane knows [`Transport`] alone, so that another implementation can take this one's place; data
//! channels will be served behind it too.

use std::{
    net::{Ipv4Addr, SocketAddr},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use aws_lc_rs::digest;
use bytes::BytesMut;
use rtc_dtls::{
    config::{ClientAuthType, ConfigBuilder, ExtendedMasterSecretType, HandshakeConfig},
    crypto::Certificate,
    endpoint::{Endpoint, EndpointEvent},
    extension::extension_use_srtp::SrtpProtectionProfile,
};
use rtc_shared::TransportProtocol;
use rtc_srtp::crypto::{RTCCryptoProvider, default_provider};

use super::srtp::KEYING_MATERIAL;

/// The encrypted connection of one peer. It does no I/O and reads no clock.
pub trait Transport: Send {
    /// Takes a DTLS datagram of the client.
    ///
    /// # Errors
    ///
    /// When the connection is over, for the reason given. It then takes no more datagrams, but may have a last one to send.
    fn handle_datagram(&mut self, datagram: &[u8], now: Instant) -> Result<(), Ended>;

    /// Sends again what was not answered.
    ///
    /// # Errors
    ///
    /// When the client did not answer for too long.
    fn handle_timeout(&mut self, now: Instant) -> Result<(), Ended>;

    /// When [`handle_timeout`](Self::handle_timeout) has something to do.
    fn poll_timeout(&self) -> Option<Instant>;

    /// The next datagram for the client.
    fn poll_out(&mut self) -> Option<BytesMut>;

    /// The SRTP keying material: once, as soon as the handshake is complete and the client is who its offer said.
    fn keys(&mut self) -> Option<[u8; KEYING_MATERIAL]>;

    /// Says goodbye to the client (`close_notify`); the datagram comes from [`poll_out`](Self::poll_out).
    fn close(&mut self, now: Instant);
}

/// Why a connection is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ended {
    /// The client closed it.
    #[error("the client closed the connection")]
    Closed,
    /// The client's certificate is not the one its offer named.
    #[error("the client's certificate is not the one its offer named")]
    Fingerprint,
    /// The handshake failed, or took too long.
    #[error("the DTLS handshake failed")]
    Handshake,
}

/// The hash of a certificate, as an offer names it (RFC 8122).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    hash: Hash,
    digest: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hash {
    Sha256,
    Sha384,
    Sha512,
}

impl Fingerprint {
    /// Reads the value of an `a=fingerprint` line, such as `sha-256 AB:CD:…`. SHA-256, SHA-384 and SHA-512 are known; `None`
    /// for other hashes, which are too weak or too rare, and for anything malformed.
    pub fn parse(value: &str) -> Option<Self> {
        let (hash, digits) = value.trim().split_once(' ')?;
        let hash = match hash.to_ascii_lowercase().as_str() {
            "sha-256" => Hash::Sha256,
            "sha-384" => Hash::Sha384,
            "sha-512" => Hash::Sha512,
            _ => return None,
        };
        let digest: Vec<u8> = digits
            .trim()
            .split(':')
            .map(|pair| {
                hex::decode(pair)
                    .ok()
                    .and_then(|byte| <[u8; 1]>::try_from(byte).ok())
            })
            .collect::<Option<Vec<_>>>()?
            .concat();
        (digest.len() == hash.algorithm().output_len()).then_some(Self { hash, digest })
    }

    /// Whether this is the hash of `certificate` (DER).
    pub fn matches(&self, certificate: &[u8]) -> bool {
        digest::digest(self.hash.algorithm(), certificate).as_ref() == self.digest
    }
}

impl Hash {
    fn algorithm(self) -> &'static digest::Algorithm {
        match self {
            Self::Sha256 => &digest::SHA256,
            Self::Sha384 => &digest::SHA384,
            Self::Sha512 => &digest::SHA512,
        }
    }
}

/// A certificate of ours with its key; one serves all connections of a node for as long as it runs.
#[derive(Clone)]
pub struct Identity {
    certificate: Certificate,
    provider: Arc<dyn RTCCryptoProvider>,
    fingerprint: String,
}

/// No certificate could be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot make the media certificate: {0}")]
pub struct IdentityError(String);

impl Identity {
    /// A new self-signed ECDSA certificate.
    ///
    /// # Errors
    ///
    /// When the crypto library fails.
    pub fn generate() -> Result<Self, IdentityError> {
        let provider = default_provider().map_err(|error| IdentityError(error.to_string()))?;
        let certificate =
            Certificate::generate_self_signed(vec!["plenum".to_owned()], provider.crypto())
                .map_err(|error| IdentityError(error.to_string()))?;
        let der = certificate
            .certificate
            .first()
            .ok_or_else(|| IdentityError("no certificate".to_owned()))?;
        let digest = digest::digest(&digest::SHA256, der);
        let pairs: Vec<String> = digest
            .as_ref()
            .iter()
            .map(|byte| format!("{byte:02X}"))
            .collect();
        let fingerprint = format!("sha-256 {}", pairs.join(":"));
        Ok(Self {
            certificate,
            provider,
            fingerprint,
        })
    }

    /// The value of our `a=fingerprint` line.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The server's side of a connection with a client that must show a certificate with one of these fingerprints.
    ///
    /// # Errors
    ///
    /// When the crypto library fails.
    pub fn accept(&self, expected: Vec<Fingerprint>) -> Result<Dtls, IdentityError> {
        let config = self.config(false)?;
        Ok(Dtls {
            endpoint: Endpoint::new(NOWHERE, TransportProtocol::UDP, Some(config)),
            expected,
            keys: None,
            complete: false,
            patience: HANDSHAKE_DATAGRAMS,
        })
    }

    /// The client's side, for load and tests; its handshake begins at once.
    ///
    /// # Errors
    ///
    /// When the crypto library fails.
    pub fn connect(&self, expected: Vec<Fingerprint>, now: Instant) -> Result<Dtls, IdentityError> {
        let config = self.config(true)?;
        let mut endpoint = Endpoint::new(NOWHERE, TransportProtocol::UDP, None);
        endpoint
            .connect(now, REMOTE, config, None)
            .map_err(|error| IdentityError(error.to_string()))?;
        Ok(Dtls {
            endpoint,
            expected,
            keys: None,
            complete: false,
            patience: HANDSHAKE_DATAGRAMS,
        })
    }

    fn config(&self, client: bool) -> Result<Arc<HandshakeConfig>, IdentityError> {
        ConfigBuilder::default()
            .with_crypto_provider(self.provider.clone())
            .with_certificates(vec![self.certificate.clone()])
            // The library takes the first profile of the client's list that we name too. Naming one alone makes it ours.
            .with_srtp_protection_profiles(vec![SrtpProtectionProfile::Srtp_Aead_Aes_128_Gcm])
            // A chain of authorities proves nothing here; the fingerprint does, and `Dtls` checks it.
            .with_client_auth(ClientAuthType::RequireAnyClientCert)
            .with_insecure_skip_verify(true)
            .with_extended_master_secret(ExtendedMasterSecretType::Require)
            .with_flight_interval(FLIGHT_INTERVAL)
            .build(client, None)
            .map(Arc::new)
            .map_err(|error| IdentityError(error.to_string()))
    }
}

/// A connection over the `rtc-dtls` crate, which tells associations apart by address. Ours has one, under the same stand-in
/// address for as long as it lives, because the client's real one may change.
pub struct Dtls {
    endpoint: Endpoint,
    expected: Vec<Fingerprint>,
    keys: Option<[u8; KEYING_MATERIAL]>,
    complete: bool,
    /// Handshake datagrams that it will still take.
    patience: u32,
}

/// Kind and epoch of the records of a datagram (RFC 6347, section 4.1).
fn records(mut rest: &[u8]) -> impl Iterator<Item = (u8, u16)> {
    std::iter::from_fn(move || {
        let [kind, _, _, e0, e1, _, _, _, _, _, _, l0, l1] = *rest.first_chunk()?;
        let length = usize::from(u16::from_be_bytes([l0, l1]));
        rest = rest.get(13..)?.get(length..).unwrap_or_default();
        Some((kind, u16::from_be_bytes([e0, e1])))
    })
}

impl Dtls {
    /// Runs the library, which parses a stranger's bytes. Should it panic on them, this connection ends and no other does.
    fn contained<T>(&mut self, run: impl FnOnce(&mut Endpoint) -> T) -> Result<T, Ended> {
        catch_unwind(AssertUnwindSafe(|| run(&mut self.endpoint))).map_err(|_| {
            self.endpoint = Endpoint::new(NOWHERE, TransportProtocol::UDP, None);
            Ended::Handshake
        })
    }

    /// Called at the end of the handshake, and before any key leaves this type.
    fn authenticate(&mut self) -> Result<(), Ended> {
        let state = self
            .endpoint
            .get_connection_state(REMOTE)
            .ok_or(Ended::Handshake)?;
        let certificate = state.peer_certificates.first().ok_or(Ended::Fingerprint)?;
        if !self
            .expected
            .iter()
            .any(|expected| expected.matches(certificate))
        {
            return Err(Ended::Fingerprint);
        }
        if state.srtp_protection_profile() != SrtpProtectionProfile::Srtp_Aead_Aes_128_Gcm {
            return Err(Ended::Handshake);
        }
        let material = state
            .export_keying_material(LABEL, &[], KEYING_MATERIAL)
            .map_err(|_| Ended::Handshake)?;
        self.keys = Some(material.as_ref().try_into().map_err(|_| Ended::Handshake)?);
        self.complete = true;
        Ok(())
    }
}

impl Transport for Dtls {
    fn handle_datagram(&mut self, datagram: &[u8], now: Instant) -> Result<(), Ended> {
        // There are two epochs, and one change from the first to the second. The library would keep records of a third
        // without end, and believe a second change, which is not encrypted, whoever sends it.
        if records(datagram)
            .any(|(kind, epoch)| epoch > 1 || (kind == CHANGE_CIPHER_SPEC && epoch > 0))
        {
            return Ok(());
        }
        if records(datagram).any(|(kind, _)| kind == HANDSHAKE) {
            match self.patience.checked_sub(1) {
                Some(left) => self.patience = left,
                None if self.complete => return Ok(()),
                None => return Err(Ended::Handshake),
            }
        }
        let datagram = BytesMut::from(datagram);
        let events = match self.contained(|endpoint| endpoint.read(now, REMOTE, None, datagram))? {
            Ok(events) => events,
            // A complete association outlives what it cannot read; anybody can send that.
            Err(_) if self.complete => return Ok(()),
            Err(error) => {
                tracing::debug!(%error, "DTLS handshake failed");
                return Err(Ended::Handshake);
            }
        };
        for event in events {
            match event {
                EndpointEvent::HandshakeComplete => {
                    if let Err(ended) = self.authenticate() {
                        self.close(now);
                        return Err(ended);
                    }
                }
                EndpointEvent::PeerClosed => return Err(Ended::Closed),
                _ => {} // application data: data channels are not served yet
            }
        }
        Ok(())
    }

    fn handle_timeout(&mut self, now: Instant) -> Result<(), Ended> {
        if self.poll_timeout().is_some_and(|due| due <= now) {
            let sent = self.contained(|endpoint| endpoint.handle_timeout(REMOTE, now))?;
            sent.map_err(|_| Ended::Handshake)?;
        }
        Ok(())
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.endpoint.poll_timeout(&REMOTE)
    }

    fn poll_out(&mut self) -> Option<BytesMut> {
        self.endpoint
            .poll_transmit()
            .map(|transmit| transmit.message)
    }

    fn keys(&mut self) -> Option<[u8; KEYING_MATERIAL]> {
        self.keys.take()
    }

    fn close(&mut self, now: Instant) {
        // Failing means that it is closed already.
        let _closed = self.contained(|endpoint| endpoint.stop(now, REMOTE).is_some());
    }
}

/// Exporter label of SRTP keys (RFC 5764, section 4.2).
const LABEL: &str = "EXTRACTOR-dtls_srtp";
/// Time until an unanswered flight is sent again; over this path, most round trips are shorter.
const FLIGHT_INTERVAL: Duration = Duration::from_millis(250);
/// Kinds of records.
const CHANGE_CIPHER_SPEC: u8 = 20;
const HANDSHAKE: u8 = 22;
/// Handshake datagrams of a client: a dozen, some of them a few times. The library keeps what is in them.
const HANDSHAKE_DATAGRAMS: u32 = 100;
/// Stand-in for our address, which the library repeats and never uses.
const NOWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 1);
/// Stand-in for the client's address.
const REMOTE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 2);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fingerprints(identity: &Identity) -> Vec<Fingerprint> {
        vec![Fingerprint::parse(identity.fingerprint()).unwrap()]
    }

    /// Runs a handshake until neither side has anything to say; what each side's last datagram led to.
    fn run(
        client: &mut Dtls,
        server: &mut Dtls,
        now: Instant,
    ) -> (Result<(), Ended>, Result<(), Ended>) {
        let (mut at_client, mut at_server) = (Ok(()), Ok(()));
        loop {
            let mut quiet = true;
            while let Some(datagram) = client.poll_out() {
                at_server = at_server.and_then(|()| server.handle_datagram(&datagram, now));
                quiet = false;
            }
            while let Some(datagram) = server.poll_out() {
                at_client = at_client.and_then(|()| client.handle_datagram(&datagram, now));
                quiet = false;
            }
            if quiet {
                return (at_client, at_server);
            }
        }
    }

    #[test]
    fn both_sides_get_the_same_keys_once() {
        let now = Instant::now();
        let (ours, theirs) = (Identity::generate().unwrap(), Identity::generate().unwrap());
        let mut server = ours.accept(fingerprints(&theirs)).unwrap();
        let mut client = theirs.connect(fingerprints(&ours), now).unwrap();
        assert_eq!(run(&mut client, &mut server, now), (Ok(()), Ok(())));
        let keys = server.keys();
        assert!(keys.is_some());
        assert_eq!(keys, client.keys());
        assert_eq!(server.keys(), None);
        client.close(now);
        assert_eq!(run(&mut client, &mut server, now).1, Err(Ended::Closed));
    }

    #[test]
    fn another_certificate_than_the_offer_named_gets_no_keys() {
        let now = Instant::now();
        let [ours, theirs, other] = std::array::from_fn(|_| Identity::generate().unwrap());
        let mut server = ours.accept(fingerprints(&other)).unwrap();
        let mut client = theirs.connect(fingerprints(&ours), now).unwrap();
        assert_eq!(
            run(&mut client, &mut server, now).1,
            Err(Ended::Fingerprint)
        );
        assert_eq!(server.keys(), None);
    }

    #[test]
    fn a_complete_connection_outlives_what_anybody_can_send() {
        let now = Instant::now();
        let (ours, theirs) = (Identity::generate().unwrap(), Identity::generate().unwrap());
        let mut server = ours.accept(fingerprints(&theirs)).unwrap();
        let mut client = theirs.connect(fingerprints(&ours), now).unwrap();
        run(&mut client, &mut server, now).1.unwrap();
        let record = |kind: u8, epoch: u8, body: &[u8]| {
            let length = u16::try_from(body.len()).unwrap().to_be_bytes();
            [
                &[kind, 0xfe, 0xfd, 0, epoch, 0, 0, 0, 0, 0, 99],
                &length[..],
                body,
            ]
            .concat()
        };
        for epoch in [0, 1, 2] {
            for forged in [
                record(21, epoch, &[1, 0]),  // close_notify
                record(21, epoch, &[2, 40]), // handshake failure
                record(20, epoch, &[1]),
                record(22, epoch, &[0; 30]),
                record(22, epoch, &[1; 30]),
                record(23, epoch, &[7; 60]),
                record(99, epoch, &[]),
            ] {
                assert_eq!(server.handle_datagram(&forged, now), Ok(()), "{forged:x?}");
                assert_eq!(
                    server.handle_datagram(&forged[..forged.len() - 1], now),
                    Ok(())
                );
            }
        }
        client.close(now);
        assert_eq!(run(&mut client, &mut server, now).1, Err(Ended::Closed));
    }

    #[test]
    fn a_handshake_takes_a_bounded_number_of_datagrams() {
        let now = Instant::now();
        let ours = Identity::generate().unwrap();
        let mut server = ours.accept(Vec::new()).unwrap();
        let half = [22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 1];
        let taken = (0..1_000).take_while(|_| server.handle_datagram(&half, now).is_ok());
        assert_eq!(taken.count(), 100);
    }

    #[test]
    fn an_unanswered_flight_is_sent_again_and_at_last_given_up() {
        let mut now = Instant::now();
        let (ours, theirs) = (Identity::generate().unwrap(), Identity::generate().unwrap());
        let mut server = ours.accept(fingerprints(&theirs)).unwrap();
        let mut client = theirs.connect(fingerprints(&ours), now).unwrap();
        // The client's hello is answered with a cookie, which it repeats; the server's certificate is lost.
        let hello = client.poll_out().unwrap();
        server.handle_datagram(&hello, now).unwrap();
        let cookie = server.poll_out().unwrap();
        client.handle_datagram(&cookie, now).unwrap();
        let hello = client.poll_out().unwrap();
        server.handle_datagram(&hello, now).unwrap();
        assert!(server.poll_out().is_some());
        while server.poll_out().is_some() {}
        now = server.poll_timeout().unwrap();
        server.handle_timeout(now).unwrap();
        assert!(server.poll_out().is_some());
        let ended = (0..100).find_map(|_| {
            now += FLIGHT_INTERVAL;
            server.handle_timeout(now).err()
        });
        assert_eq!(ended, Some(Ended::Handshake));
    }

    #[test]
    fn fingerprints_are_read_strictly() {
        let right = format!("sha-256 {}", ["aB"; 32].join(":"));
        assert!(Fingerprint::parse(&right).is_some());
        assert!(Fingerprint::parse(&right.replace("sha", "SHA")).is_some());
        assert!(Fingerprint::parse(&format!("sha-512 {}", ["00"; 64].join(":"))).is_some());
        for wrong in [
            "",
            "sha-256",
            "sha-256 ",
            &format!("sha-1 {}", ["00"; 20].join(":")),
            &format!("sha-256 {}", ["00"; 31].join(":")),
            &format!("sha-256 {}", ["+0"; 32].join(":")),
            &format!("sha-256 {}", ["000"; 32].join(":")),
            &["00"; 32].join(":"),
        ] {
            let parsed = Fingerprint::parse(wrong);
            assert!(parsed.is_none(), "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn any_fingerprint_is_read_without_panic(value in ".{0,120}") {
            Fingerprint::parse(&value);
        }

        #[test]
        fn any_datagram_is_taken_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), kind in 20..=25u8) {
            let identity = Identity::generate().unwrap();
            let mut server = identity.accept(Vec::new()).unwrap();
            let mut datagram = vec![kind, 0xfe, 0xfd];
            datagram.extend(bytes);
            let _outcome = server.handle_datagram(&datagram, Instant::now());
            prop_assert_eq!(server.keys(), None);
        }
    }
}
