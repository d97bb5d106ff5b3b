//! The other end: a client's side of a connection, for load generation and tests.
//!
//! Like the server's side it does no I/O and reads no clock. It sends whatever RTP payloads it is given and hands out what
//! it receives; it neither encodes nor decodes.

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use super::{
    dtls::{Dtls, Fingerprint, Transport},
    rtcp::{self, Writer},
    rtp,
    sdp::CNAME,
    slab::DATAGRAM,
    srtp::{Opener, RTP_OVERHEAD, Sealer, Side, directions},
    stun,
};
pub use super::{
    dtls::{Ended, Identity, IdentityError},
    sdp::Kind,
};

/// An m-line of a client, named by its position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// It sends.
    Send(Kind),
    /// It receives.
    Receive(Kind),
}

impl Line {
    const fn kind(self) -> Kind {
        match self {
            Self::Send(kind) | Self::Receive(kind) => kind,
        }
    }
}

/// The answer lacks what a client needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the answer has no {0}")]
pub struct Incomplete(&'static str);

/// What a client received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// The answer to a connectivity check.
    Checked,
    /// Part of a handshake.
    Handshake,
    /// A packet of a stream.
    Media {
        /// The m-line it came on.
        line: usize,
        /// Its sequence number, extended.
        sequence: u64,
        /// Its timestamp.
        timestamp: u32,
        /// Its audio level extension, as it came (RFC 6464).
        audio_level: Option<u8>,
        /// Its payload.
        payload: Vec<u8>,
    },
    /// A control packet.
    Control(Vec<u8>),
    /// Nothing of ours, or nothing authentic.
    Nothing,
}

/// A client.
pub struct Client {
    identity: Identity,
    lines: Vec<Line>,
    /// Streams we send, by m-line.
    streams: Vec<u32>,
    /// Streams we are sent, by m-line.
    slots: Vec<Option<u32>>,
    ufrag: String,
    /// Distinguishes our checks.
    checks: u64,
    check_at: Option<Instant>,
    server: Option<Server>,
    dtls: Option<Dtls>,
    keys: Option<(Opener, Sealer)>,
    out: VecDeque<Vec<u8>>,
}

/// What the answer said.
struct Server {
    address: SocketAddr,
    ufrag: String,
    password: String,
    fingerprint: Fingerprint,
}

impl Client {
    /// A client with these m-lines. `seed` tells clients apart.
    pub fn new(identity: Identity, lines: Vec<Line>, seed: u32) -> Self {
        let streams = (0u32..)
            .zip(&lines)
            .map(|(position, _)| seed.wrapping_mul(1_000).wrapping_add(position))
            .collect();
        let slots = vec![None; lines.len()];
        Self {
            identity,
            streams,
            slots,
            lines,
            ufrag: format!("client{seed:08x}"),
            checks: 0,
            check_at: None,
            server: None,
            dtls: None,
            keys: None,
            out: VecDeque::new(),
        }
    }

    /// The offer.
    pub fn offer(&self) -> String {
        let mids: Vec<String> = (0..self.lines.len())
            .map(|position| position.to_string())
            .collect();
        let mut offer = format!(
            "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE {}\r\n",
            mids.join(" ")
        );
        for ((mid, line), stream) in mids.iter().zip(&self.lines).zip(&self.streams) {
            let (kind, number, codec, options) = match line.kind() {
                Kind::Audio => ("audio", AUDIO, "opus/48000/2", LEVEL),
                Kind::Video => (
                    "video",
                    VIDEO,
                    "VP8/90000",
                    "a=rtcp-fb:96 nack\r\na=rtcp-fb:96 nack pli\r\n",
                ),
            };
            let (direction, source) = match line {
                Line::Send(_) => ("sendonly", format!("a=ssrc:{stream} cname:{CNAME}\r\n")),
                Line::Receive(_) => ("recvonly", String::new()),
            };
            let (ufrag, fingerprint) = (&self.ufrag, self.identity.fingerprint());
            offer.push_str(&format!(
                "m={kind} 9 UDP/TLS/RTP/SAVPF {number}\r\nc=IN IP4 0.0.0.0\r\na=mid:{mid}\r\na={direction}\r\n\
                 a=ice-ufrag:{ufrag}\r\na=ice-pwd:{PASSWORD}\r\na=fingerprint:{fingerprint}\r\na=setup:actpass\r\n\
                 a=rtcp-mux\r\na=rtcp-rsize\r\na=rtpmap:{number} {codec}\r\n\
                 a=extmap:{MID} urn:ietf:params:rtp-hdrext:sdes:mid\r\n{options}{source}"
            ));
        }
        offer
    }

    /// Adds m-lines, for another offer.
    pub fn add_lines(&mut self, lines: &[Line]) {
        for line in lines {
            let next = self
                .streams
                .last()
                .map_or(1, |stream| stream.wrapping_add(1));
            self.lines.push(*line);
            self.streams.push(next);
            self.slots.push(None);
        }
    }

    /// Starts ICE again with the next offer.
    pub fn restart_ice(&mut self) {
        self.ufrag.push('r');
    }

    /// Goes on as another stream on this m-line, which the next offer announces.
    pub fn renew_stream(&mut self, line: usize) {
        if let Some(stream) = self.streams.get_mut(line) {
            *stream = stream.wrapping_add(500);
        }
    }

    /// Takes the answer; the first time the connection begins.
    ///
    /// # Errors
    ///
    /// When the answer lacks something.
    pub fn handle_answer(&mut self, answer: &str, now: Instant) -> Result<(), Incomplete> {
        let first = |key: &str| {
            answer
                .lines()
                .find_map(|line| line.trim_end().strip_prefix(key))
        };
        let candidate = first("a=candidate:").ok_or(Incomplete("candidate"))?;
        let mut words = candidate.split(' ').skip(4);
        let ip: IpAddr = words
            .next()
            .and_then(|ip| ip.parse().ok())
            .ok_or(Incomplete("address"))?;
        let port: u16 = words
            .next()
            .and_then(|port| port.parse().ok())
            .ok_or(Incomplete("port"))?;
        let fingerprint = first("a=fingerprint:")
            .and_then(Fingerprint::parse)
            .ok_or(Incomplete("fingerprint"))?;
        self.server = Some(Server {
            address: SocketAddr::new(ip, port),
            ufrag: first("a=ice-ufrag:")
                .ok_or(Incomplete("ice-ufrag"))?
                .to_owned(),
            password: first("a=ice-pwd:").ok_or(Incomplete("ice-pwd"))?.to_owned(),
            fingerprint,
        });
        for (slot, section) in self.slots.iter_mut().zip(answer.split("\r\nm=").skip(1)) {
            let mut lines = section.lines();
            *slot = lines.find_map(|line| {
                line.strip_prefix("a=ssrc:")?
                    .split(' ')
                    .next()?
                    .parse()
                    .ok()
            });
        }
        self.check_at = Some(now);
        Ok(())
    }

    /// Where to send what [`poll_transmit`](Self::poll_transmit) yields.
    pub fn server(&self) -> Option<SocketAddr> {
        self.server.as_ref().map(|server| server.address)
    }

    /// Whether media can be sent.
    pub fn is_connected(&self) -> bool {
        self.keys.is_some()
    }

    /// Takes a datagram of the server, which is opened in place.
    ///
    /// # Errors
    ///
    /// When the handshake failed or the server said goodbye.
    pub fn handle_datagram(
        &mut self,
        datagram: &mut [u8],
        now: Instant,
    ) -> Result<Received, Ended> {
        match datagram.first() {
            Some(0..=3) if stun::is_success(datagram) => {
                if let (None, Some(server)) = (&self.dtls, &self.server) {
                    let expected = vec![server.fingerprint.clone()];
                    self.dtls = Some(
                        self.identity
                            .connect(expected, now)
                            .map_err(|_| Ended::Handshake)?,
                    );
                    self.flush_dtls();
                }
                Ok(Received::Checked)
            }
            Some(20..=63) => {
                let Some(dtls) = &mut self.dtls else {
                    return Ok(Received::Nothing);
                };
                let outcome = dtls.handle_datagram(datagram, now);
                if let Some(material) = dtls.keys() {
                    self.keys = directions(&material, Side::Client).ok();
                }
                self.flush_dtls();
                outcome.map(|()| Received::Handshake)
            }
            Some(128..=191) => Ok(self.handle_media(datagram).unwrap_or(Received::Nothing)),
            _ => Ok(Received::Nothing),
        }
    }

    fn handle_media(&mut self, datagram: &mut [u8]) -> Option<Received> {
        let (opener, _) = self.keys.as_mut()?;
        if rtcp::is_rtcp(datagram) {
            let length = opener.open_rtcp(datagram).ok()?;
            return Some(Received::Control(datagram.get(..length)?.to_vec()));
        }
        let header = rtp::Header::parse(datagram)?;
        let sequence = opener
            .open_rtp(datagram, header.length, header.source, header.sequence)
            .ok()?;
        let end = datagram.len().checked_sub(RTP_OVERHEAD)?;
        Some(Received::Media {
            line: self
                .slots
                .iter()
                .position(|slot| *slot == Some(header.source))?,
            sequence,
            timestamp: header.timestamp,
            audio_level: header
                .extension(datagram, AUDIO_LEVEL)
                .and_then(|value| value.first().copied()),
            payload: datagram.get(header.length..end)?.to_vec(),
        })
    }

    fn flush_dtls(&mut self) {
        if let Some(dtls) = &mut self.dtls {
            self.out
                .extend(std::iter::from_fn(|| dtls.poll_out()).map(|datagram| datagram.to_vec()));
        }
    }

    /// Sends a packet on an m-line: number (16 bits of it are sent), timestamp, and payload. Lost before the connection is up.
    pub fn send_media(&mut self, line: usize, sequence: u64, timestamp: u32, payload: &[u8]) {
        let known = self.lines.get(line).zip(self.streams.get(line));
        let Some((line, &source)) = known else {
            return;
        };
        let header = rtp::Outgoing {
            payload_type: match line.kind() {
                Kind::Audio => AUDIO,
                Kind::Video => VIDEO,
            },
            marker: false,
            sequence: rtp::truncate(sequence),
            timestamp,
            source,
            extension: None,
        };
        self.send_packet(&header, sequence, payload);
    }

    /// Sends a packet with any header.
    pub(super) fn send_packet(&mut self, header: &rtp::Outgoing, sequence: u64, payload: &[u8]) {
        let sealed = self.keys.as_ref().and_then(|(_, sealer)| {
            let mut packet = vec![0; DATAGRAM];
            let offset = header.write(&mut packet)?;
            let length = offset.checked_add(payload.len())?;
            packet.get_mut(offset..length)?.copy_from_slice(payload);
            let sealed = sealer.seal_rtp(&mut packet, offset, length, header.source, sequence)?;
            packet.truncate(sealed);
            Some(packet)
        });
        self.out.extend(sealed);
    }

    /// Says of a packet that it did not arrive on this m-line.
    pub fn send_nack(&mut self, line: usize, lost: &[u16]) {
        let Some(slot) = self.slots.get(line).copied().flatten() else {
            return;
        };
        let mut writer = Writer::new();
        writer.nack(REPORTER, slot, lost.iter().copied());
        self.send_control(writer.bytes());
    }

    /// Asks for a key frame on this m-line.
    pub fn send_key_frame_request(&mut self, line: usize) {
        let Some(slot) = self.slots.get(line).copied().flatten() else {
            return;
        };
        let mut writer = Writer::new();
        writer.key_frame_request(REPORTER, slot);
        self.send_control(writer.bytes());
    }

    /// Relates the media time of an m-line to our clock.
    pub fn send_sender_report(&mut self, line: usize, ntp: u64, timestamp: u32) {
        let Some(&stream) = self.streams.get(line) else {
            return;
        };
        let mut writer = Writer::new();
        writer.sender_report(stream, ntp, timestamp, 1, 1);
        self.send_control(writer.bytes());
    }

    /// Says that we no longer send on this m-line.
    pub fn send_goodbye(&mut self, line: usize) {
        let Some(&stream) = self.streams.get(line) else {
            return;
        };
        let mut writer = Writer::new();
        writer.receiver_report(stream, &[]).goodbye(stream);
        self.send_control(writer.bytes());
    }

    fn send_control(&mut self, plain: &[u8]) {
        let sealed = self
            .keys
            .as_mut()
            .and_then(|(_, sealer)| sealer.seal_rtcp(plain));
        self.out.extend(sealed);
    }

    /// Closes the connection.
    pub fn close(&mut self, now: Instant) {
        if let Some(dtls) = &mut self.dtls {
            dtls.close(now);
        }
        self.flush_dtls();
    }

    /// Checks the path, and repeats what was not answered.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.check_at.is_some_and(|due| due <= now)
            && let Some(server) = &self.server
        {
            self.checks = self.checks.wrapping_add(1);
            let mut transaction = [0; 12];
            if let Some(counter) = transaction.last_chunk_mut() {
                *counter = self.checks.to_be_bytes();
            }
            let username = format!("{}:{}", server.ufrag, self.ufrag);
            self.out.push_back(stun::request(
                transaction,
                &username,
                &server.password,
                true,
            ));
            let interval = if self.is_connected() {
                CONSENT_INTERVAL
            } else {
                CHECK_INTERVAL
            };
            self.check_at = now.checked_add(interval);
        }
        if let Some(dtls) = &mut self.dtls {
            // Its failing is told by `handle_datagram`.
            let _outcome = dtls.handle_timeout(now);
        }
        self.flush_dtls();
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let dtls = self.dtls.as_ref().and_then(Transport::poll_timeout);
        self.check_at.into_iter().chain(dtls).min()
    }

    /// The next datagram for the server.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        self.out.pop_front()
    }
}

const AUDIO: u8 = 111;
const VIDEO: u8 = 96;
/// Our numbers of the extensions we use.
const AUDIO_LEVEL: u8 = 1;
const MID: u8 = 4;
const LEVEL: &str = "a=extmap:1 urn:ietf:params:rtp-hdrext:ssrc-audio-level\r\n";
/// The stream our feedback comes from; nobody looks at it.
const REPORTER: u32 = 1;
/// Never used: a lite server sends no checks.
const PASSWORD: &str = "a-lite-server-sends-no-checks";
/// Until an unanswered check is repeated.
const CHECK_INTERVAL: Duration = Duration::from_millis(50);
/// How often consent is renewed (RFC 7675 says 4 to 6 s).
const CONSENT_INTERVAL: Duration = Duration::from_secs(5);
