//! ICE of a server with a public address (RFC 8445, section 2.5, "lite"): it answers checks and never sends any.
//!
//! An address is believed only after a binding request from it had the right integrity, which nobody can make who has not
//! seen the answer SDP. The user name fragment names the peer, so the first packet of an unknown address needs no search.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use rand::Rng;
use slotmap::{Key, KeyData};

use super::{peer::PeerKey, stun::Request};

/// What proves that a check is meant for one connection of one peer.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Names worker and peer; see [`peer_of`].
    pub ufrag: String,
    /// Known to the two ends of the signaling connection alone.
    pub password: String,
}

impl Credentials {
    /// New credentials for a peer of `worker`.
    pub fn new(worker: u8, peer: PeerKey, rng: &mut impl Rng) -> Self {
        let mut secret = [0; 20]; // 4 bytes tell restarts apart, 16 are the password (RFC 8445, section 5.3: 128 bits)
        rng.fill_bytes(&mut secret);
        let (generation, password) = secret.split_at(4);
        Self {
            ufrag: format!(
                "{worker:02x}{:016x}{}",
                peer.data().as_ffi(),
                hex::encode(generation)
            ),
            password: hex::encode(password),
        }
    }
}

/// The worker and the peer that a user name fragment of ours names.
pub fn peer_of(ufrag: &str) -> Option<(u8, PeerKey)> {
    if ufrag.len() != 26 || !ufrag.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let worker = u8::from_str_radix(ufrag.get(..2)?, 16).ok()?;
    let peer = u64::from_str_radix(ufrag.get(2..18)?, 16).ok()?;
    Some((worker, KeyData::from_ffi(peer).into()))
}

/// A check that was not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused;

/// A check that is to be answered.
#[derive(Debug, PartialEq, Eq)]
pub struct Answered {
    /// For the address the check came from.
    pub response: Vec<u8>,
    /// An address that this one took the place of.
    pub forgotten: Option<SocketAddr>,
}

/// ICE of one connection.
pub struct Agent {
    local: Credentials,
    /// Those before an ICE restart, until the client uses the new ones.
    previous: Option<(Credentials, String)>,
    remote_ufrag: String,
    /// Addresses with a checked request, the latest last.
    paths: Vec<SocketAddr>,
    nominated: Option<SocketAddr>,
    checked_at: Option<Instant>,
}

impl Agent {
    /// `remote_ufrag` is the one of the client's offer.
    pub fn new(local: Credentials, remote_ufrag: String) -> Self {
        Self {
            local,
            previous: None,
            remote_ufrag,
            paths: Vec::new(),
            nominated: None,
            checked_at: None,
        }
    }

    /// What the answer SDP says.
    pub fn credentials(&self) -> &Credentials {
        &self.local
    }

    /// Whether an offer with this user name fragment restarts ICE (RFC 8839, section 4.4.1.1.1).
    pub fn is_restarted_by(&self, remote_ufrag: &str) -> bool {
        self.remote_ufrag != remote_ufrag
    }

    /// Starts again with new credentials. Media goes on over the old path until the client has checked with the new ones.
    pub fn restart(&mut self, local: Credentials, remote_ufrag: String) {
        let local = std::mem::replace(&mut self.local, local);
        let remote = std::mem::replace(&mut self.remote_ufrag, remote_ufrag);
        self.previous = Some((local, remote));
    }

    /// Takes a binding request from `source`.
    ///
    /// # Errors
    ///
    /// When its sender does not know our password; then nothing changes and nothing is sent.
    pub fn handle_request(
        &mut self,
        request: &Request<'_>,
        source: SocketAddr,
        now: Instant,
    ) -> Result<Answered, Refused> {
        let password = self.check(request)?;
        let response = request.success(source, &password);
        self.checked_at = Some(now);
        let known = self.paths.iter().position(|path| *path == source);
        let forgotten = match known {
            Some(position) => Some(self.paths.remove(position)).and(None),
            None if self.paths.len() >= PATHS => {
                let oldest = self
                    .paths
                    .iter()
                    .position(|path| self.nominated != Some(*path));
                oldest.map(|position| self.paths.remove(position))
            }
            None => None,
        };
        self.paths.push(source);
        if request.use_candidate {
            self.nominated = Some(source);
        }
        Ok(Answered {
            response,
            forgotten,
        })
    }

    /// The password under which the request is right.
    fn check(&mut self, request: &Request<'_>) -> Result<String, Refused> {
        let right = |local: &Credentials, remote: &str| {
            request.local_ufrag == local.ufrag
                && request.remote_ufrag == remote
                && request.verify(&local.password)
        };
        if right(&self.local, &self.remote_ufrag) {
            if self.previous.take().is_some() {
                self.nominated = None;
            }
            return Ok(self.local.password.clone());
        }
        match &self.previous {
            Some((local, remote)) if right(local, remote) => Ok(local.password.clone()),
            _ => Err(Refused),
        }
    }

    /// Where to send: the address the client chose, or until it has chosen the one that checked last.
    pub fn remote(&self) -> Option<SocketAddr> {
        self.nominated.or(self.paths.last().copied())
    }

    /// Every address with a checked request.
    pub fn paths(&self) -> &[SocketAddr] {
        &self.paths
    }

    /// When the client's consent to receive ends, unless it checks again (RFC 7675); `None` before its first check.
    pub fn consent_until(&self) -> Option<Instant> {
        self.checked_at.and_then(|at| at.checked_add(CONSENT))
    }
}

/// How long a client that stopped checking is still sent to (RFC 7675 allows 30 s; browsers check every 2.5 s or faster).
pub const CONSENT: Duration = Duration::from_secs(15);
/// Addresses one client may have at a time: its interfaces, and what a network puts before them.
const PATHS: usize = 8;

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};
    use slotmap::SlotMap;

    use super::*;
    use crate::sfu::stun;

    fn agent() -> Agent {
        let mut rng = StdRng::seed_from_u64(1);
        Agent::new(
            Credentials::new(0, PeerKey::default(), &mut rng),
            "theirs".to_owned(),
        )
    }

    fn check(
        agent: &mut Agent,
        from: u16,
        ufrag: &str,
        password: &str,
        nominate: bool,
        now: Instant,
    ) -> bool {
        let bytes = stun::request([1; 12], &format!("{ufrag}:theirs"), password, nominate);
        let source = SocketAddr::from(([127, 0, 0, 1], from));
        agent
            .handle_request(&Request::parse(&bytes).unwrap(), source, now)
            .is_ok()
    }

    fn remote(agent: &Agent) -> Option<u16> {
        agent.remote().map(|address| address.port())
    }

    #[test]
    fn an_address_is_believed_only_with_the_password() {
        let now = Instant::now();
        let mut agent = agent();
        let Credentials { ufrag, password } = agent.credentials().clone();
        assert!(!check(&mut agent, 1, &ufrag, "guessed", true, now));
        assert!(!check(&mut agent, 1, "guessed", &password, true, now));
        assert_eq!((agent.remote(), agent.consent_until()), (None, None));
        assert!(check(&mut agent, 1, &ufrag, &password, false, now));
        assert_eq!(remote(&agent), Some(1));
        assert_eq!(agent.consent_until(), Some(now + CONSENT));
    }

    #[test]
    fn the_address_changes_when_the_client_nominates_another() {
        let now = Instant::now();
        let mut agent = agent();
        let Credentials { ufrag, password } = agent.credentials().clone();
        assert!(check(&mut agent, 1, &ufrag, &password, true, now));
        assert!(check(&mut agent, 2, &ufrag, &password, false, now));
        assert_eq!(remote(&agent), Some(1), "a check alone does not move it");
        assert!(check(&mut agent, 2, &ufrag, &password, true, now));
        assert_eq!(remote(&agent), Some(2));
    }

    #[test]
    fn a_restart_keeps_the_path_until_the_new_credentials_are_used() {
        let now = Instant::now();
        let mut agent = agent();
        let old = agent.credentials().clone();
        assert!(check(&mut agent, 1, &old.ufrag, &old.password, true, now));
        let mut rng = StdRng::seed_from_u64(2);
        agent.restart(
            Credentials::new(0, PeerKey::default(), &mut rng),
            "theirs".to_owned(),
        );
        let new = agent.credentials().clone();
        assert!(check(&mut agent, 1, &old.ufrag, &old.password, true, now));
        assert_eq!(remote(&agent), Some(1));
        assert!(check(&mut agent, 2, &new.ufrag, &new.password, true, now));
        assert_eq!(remote(&agent), Some(2));
        assert!(!check(&mut agent, 1, &old.ufrag, &old.password, true, now));
    }

    #[test]
    fn a_client_has_a_bounded_number_of_addresses_and_keeps_the_nominated_one() {
        let now = Instant::now();
        let mut agent = agent();
        let Credentials { ufrag, password } = agent.credentials().clone();
        assert!(check(&mut agent, 1, &ufrag, &password, true, now));
        for port in 2..100 {
            assert!(check(&mut agent, port, &ufrag, &password, false, now));
        }
        assert_eq!(agent.paths().len(), PATHS);
        assert_eq!(remote(&agent), Some(1));
    }

    #[test]
    fn a_user_name_names_worker_and_peer() {
        let mut keys: SlotMap<PeerKey, ()> = SlotMap::with_key();
        let key = keys.insert(());
        let credentials = Credentials::new(7, key, &mut StdRng::seed_from_u64(3));
        assert_eq!(peer_of(&credentials.ufrag), Some((7, key)));
        for wrong in [
            "",
            "07",
            "zz00000000000000000000000000",
            &"é".repeat(13),
            &credentials.ufrag[1..],
        ] {
            assert_eq!(peer_of(wrong), None, "{wrong:?}");
        }
    }
}
