//! One participant's WebRTC connection: its path, its keys, what it publishes and what it receives.

use std::{collections::VecDeque, net::SocketAddr, time::Instant};

use bytes::BytesMut;
use slotmap::new_key_type;

use super::{
    LostReason, Source,
    dtls::{Ended, Fingerprint, Transport},
    ice::Agent,
    rtp,
    sdp::{Kind, SECTIONS},
    slab::{Handle, Slab},
    slot::{Rewritten, Slot},
    srtp::{Opener, Sealer, Side, directions},
    track::Track,
};
use crate::id::{MeetingId, ParticipantId};

new_key_type! {
    /// A peer of a worker. Never names another one, also after the peer is gone.
    pub struct PeerKey;
}

/// A track of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TrackId {
    /// Its publisher.
    pub peer: PeerKey,
    /// Its position in [`Peer::tracks`].
    pub track: usize,
}

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connection {
    /// Waiting for the client's checks and handshake.
    Pending,
    /// Media flows.
    Up,
    /// The client has gone, or was refused.
    Down(LostReason),
}

/// A participant's connection.
pub struct Peer {
    /// The meeting it belongs to.
    pub meeting: MeetingId,
    /// Whose connection it is.
    pub participant: ParticipantId,
    /// Hashes of the client's certificate; an offer with others is another connection.
    pub fingerprints: Vec<Fingerprint>,
    /// Its path.
    pub agent: Agent,
    /// How far it has come.
    pub connection: Connection,
    /// When it was made.
    pub since: Instant,
    /// What the client may send, in the order of its m-lines.
    pub tracks: Vec<Track>,
    /// What the client receives, in the order of its m-lines.
    pub slots: Vec<Slot>,
    /// The stream our reports come from.
    pub reporter: u32,
    /// Of our session descriptions; see [`Local`](super::sdp::Local).
    pub session: u64,
    /// Number of answers given.
    pub version: u64,
    /// When the next reports are due.
    pub report_at: Instant,
    /// Packets that may be sent again until the next sweep.
    pub resends: u32,
    /// What to tell the outside.
    pub news: News,
    transport: Box<dyn Transport>,
    keys: Option<(Opener, Sealer)>,
    /// Streams the client sends, and the tracks they belong to.
    streams: Vec<(u32, usize)>,
    outbox: VecDeque<Outgoing>,
}

/// What has changed since the outside was told.
#[derive(Debug, Default)]
pub struct News {
    /// Whether the peer waits in the router's queue of those with news.
    pub queued: bool,
    /// The connection.
    pub connection: bool,
    /// The tracks.
    pub tracks: bool,
    /// The slots.
    pub slots: bool,
    /// Sources that a connection before this one published.
    pub gone: Vec<Source>,
}

/// A packet to send, by reference.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing {
    /// Position of the slot it goes out on.
    pub slot: usize,
    /// The packet.
    pub handle: Handle,
    /// Its numbers in that slot.
    pub rewritten: Rewritten,
}

/// What [`Peer::open_rtp`] found.
#[derive(Clone, Copy, Debug)]
pub struct Opened {
    /// The packet's header.
    pub header: rtp::Header,
    /// Its extended sequence number.
    pub sequence: u64,
    /// Length of its payload without padding.
    pub payload_length: usize,
    /// The track it belongs to.
    pub track: usize,
}

impl Peer {
    /// A connection that waits for its client.
    #[expect(
        clippy::too_many_arguments,
        reason = "each is another kind of thing, and there is one caller"
    )]
    pub fn new(
        meeting: MeetingId,
        participant: ParticipantId,
        fingerprints: Vec<Fingerprint>,
        agent: Agent,
        transport: Box<dyn Transport>,
        reporter: u32,
        session: u64,
        now: Instant,
    ) -> Self {
        Self {
            meeting,
            participant,
            fingerprints,
            agent,
            connection: Connection::Pending,
            since: now,
            tracks: Vec::new(),
            slots: Vec::new(),
            reporter,
            session,
            version: 0,
            report_at: now,
            resends: 0,
            news: News::default(),
            transport,
            keys: None,
            streams: Vec::new(),
            outbox: VecDeque::new(),
        }
    }

    /// Whether it has had so many m-lines that there can be no more; each is remembered.
    pub fn is_full(&self) -> bool {
        self.tracks.len().saturating_add(self.slots.len()) > 2 * SECTIONS
    }

    /// Whether media can be sent to it.
    pub fn is_up(&self) -> bool {
        self.connection == Connection::Up
    }

    /// Whether the handshake is complete, so that its datagrams cost little.
    pub fn has_keys(&self) -> bool {
        self.keys.is_some()
    }

    /// Takes a DTLS datagram.
    ///
    /// # Errors
    ///
    /// When the connection is over.
    pub fn handle_dtls(&mut self, datagram: &[u8], now: Instant) -> Result<(), Ended> {
        self.transport.handle_datagram(datagram, now)?;
        if let Some(material) = self.transport.keys() {
            self.keys = Some(directions(&material, Side::Server).map_err(|_| Ended::Handshake)?);
        }
        Ok(())
    }

    /// Lets the handshake repeat what was not answered.
    ///
    /// # Errors
    ///
    /// When the connection is over.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), Ended> {
        self.transport.handle_timeout(now)
    }

    /// The next DTLS datagram for the client, and where to send it. Waits for a checked address.
    pub fn poll_dtls(&mut self) -> Option<(SocketAddr, BytesMut)> {
        let remote = self.agent.remote()?;
        self.transport.poll_out().map(|datagram| (remote, datagram))
    }

    /// Says goodbye.
    pub fn close(&mut self, now: Instant) {
        self.transport.close(now);
    }

    /// Opens an RTP packet in place and finds its track; `None` when it is not authentic or of no track.
    pub fn open_rtp(&mut self, packet: &mut [u8]) -> Option<Opened> {
        let header = rtp::Header::parse(packet)?;
        let (opener, _) = self.keys.as_mut()?;
        let sequence = opener
            .open_rtp(packet, header.length, header.source, header.sequence)
            .ok()?;
        let end = packet.len().checked_sub(super::srtp::RTP_OVERHEAD)?;
        let payload_length = rtp::unpadded(packet.get(header.length..end)?, header.padding)?;
        let track = self.track_of(&header, packet)?;
        Some(Opened {
            header,
            sequence,
            payload_length,
            track,
        })
    }

    /// The track of an authentic packet: by its stream, which was announced or seen before, or else by the mid it carries.
    fn track_of(&mut self, header: &rtp::Header, packet: &[u8]) -> Option<usize> {
        let known = self
            .streams
            .iter()
            .find(|(stream, _)| *stream == header.source)
            .map(|(_, track)| *track);
        let track = known.or_else(|| {
            let track = self.tracks.iter().position(|track| {
                let mid = track
                    .media
                    .mid_extension
                    .and_then(|id| header.extension(packet, id));
                mid == Some(track.mid.as_bytes())
            })?;
            if self.streams.len() >= STREAMS {
                return None;
            }
            self.streams.push((header.source, track));
            Some(track)
        })?;
        let expected = self.tracks.get(track)?.media.payload_type;
        (header.payload_type == expected).then_some(track)
    }

    /// Ties the streams an offer announced to their tracks, and forgets the others.
    pub fn bind_streams(&mut self) {
        self.streams.clear();
        for (position, track) in self.tracks.iter().enumerate() {
            let announced = track.media.sources.iter().chain(&track.stream);
            self.streams
                .extend(announced.map(|stream| (*stream, position)));
        }
        self.streams.truncate(STREAMS);
    }

    /// Opens a control packet in place; returns its length.
    pub fn open_rtcp(&mut self, packet: &mut [u8]) -> Option<usize> {
        self.keys.as_mut()?.0.open_rtcp(packet).ok()
    }

    /// Seals a control packet, with the address to send it to.
    pub fn seal_rtcp(&mut self, plain: &[u8]) -> Option<(SocketAddr, Vec<u8>)> {
        let remote = self.agent.remote()?;
        Some((remote, self.keys.as_mut()?.1.seal_rtcp(plain)?))
    }

    /// Puts a packet into the queue; a full one loses it, as a network would. `true` when the queue was empty before.
    pub fn push(&mut self, outgoing: Outgoing) -> bool {
        let first = self.outbox.is_empty();
        if self.outbox.len() < OUTBOX {
            self.outbox.push_back(outgoing);
        }
        first
    }

    /// Writes the next packet of the queue to `buffer`; its address and length. `None` when the queue is empty.
    pub fn poll_media(&mut self, slab: &Slab, buffer: &mut [u8]) -> Option<(SocketAddr, usize)> {
        while let Some(outgoing) = self.outbox.pop_front() {
            if let Some(transmit) = self.write(&outgoing, slab, buffer) {
                return Some(transmit);
            }
        }
        None
    }

    fn write(
        &self,
        outgoing: &Outgoing,
        slab: &Slab,
        buffer: &mut [u8],
    ) -> Option<(SocketAddr, usize)> {
        let remote = self.agent.remote()?;
        let (_, sealer) = self.keys.as_ref()?;
        let slot = self.slots.get(outgoing.slot)?;
        let (packet, payload) = slab.get(outgoing.handle)?;
        let extension = slot.media.audio_level_extension.zip(packet.audio_level);
        let header = rtp::Outgoing {
            payload_type: slot.media.payload_type,
            marker: packet.marker,
            sequence: rtp::truncate(outgoing.rewritten.sequence),
            timestamp: outgoing.rewritten.timestamp,
            source: slot.stream,
            extension,
        }
        .write(buffer)?;
        let length = header.checked_add(payload.len())?;
        buffer.get_mut(header..length)?.copy_from_slice(payload);
        let sealed = sealer.seal_rtp(
            buffer,
            header,
            length,
            slot.stream,
            outgoing.rewritten.sequence,
        )?;
        Some((remote, sealed))
    }

    /// The position of the slot that is this stream of ours.
    pub fn slot_of(&self, stream: u32) -> Option<usize> {
        self.slots.iter().position(|slot| slot.stream == stream)
    }

    /// The position of the track that is this stream of the client's.
    pub fn track_of_stream(&self, stream: u32) -> Option<usize> {
        self.tracks
            .iter()
            .position(|track| track.stream == Some(stream))
    }

    /// Positions of the open slots of one kind.
    pub fn slots_of(&self, kind: Kind) -> impl Iterator<Item = usize> {
        let slots = self.slots.iter().enumerate();
        slots
            .filter(move |(_, slot)| slot.open && slot.media.kind == kind)
            .map(|(position, _)| position)
    }
}

/// Streams a client may send: what an offer announces, and what replaces it.
const STREAMS: usize = 64;
/// Packets that wait for one subscriber; they are sent within the turn they came in, so this is a few turns' worth.
const OUTBOX: usize = 1_024;
