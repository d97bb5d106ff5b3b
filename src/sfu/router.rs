//! All meetings of one worker: takes datagrams and commands, says what to send and what happened.
//!
//! It does no I/O and reads no clock. Per packet it allocates nothing: a packet is a place in the slab, and what is sent is
//! written straight into the buffer that the kernel reads.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    net::SocketAddr,
    time::{Duration, Instant},
};

use rand::{Rng, RngExt, rngs::StdRng};
use slotmap::SlotMap;

use super::{
    Event, LostReason, SlotView, Source,
    dtls::{Ended, Identity},
    ice::{self, Agent, CONSENT, Credentials},
    peer::{Connection, Opened, Outgoing, Peer, PeerKey, TrackId},
    rtcp::{self, Message, Writer},
    sdp::{self, CNAME, Kind, Local, NegotiationError, Offer, Role},
    slab::{Buffer, Packet, Slab},
    slot::{Rewriter, Slot},
    slots,
    stun::Request,
    track::Track,
    vp8,
};
use crate::id::{MeetingId, ParticipantId};

/// What a participant asks for by an offer.
pub struct Negotiation {
    /// The meeting.
    pub meeting: MeetingId,
    /// The participant.
    pub peer: ParticipantId,
    /// The offer.
    pub offer: Offer,
    /// What the client sends, by mid.
    pub tracks: Vec<(String, Source)>,
    /// What it may send.
    pub allowed: HashSet<Source>,
}

/// The meetings of one worker.
pub struct Router {
    worker: u8,
    identity: Identity,
    addresses: Vec<SocketAddr>,
    rng: StdRng,
    slab: Slab,
    peers: SlotMap<PeerKey, Peer>,
    meetings: HashMap<MeetingId, Meeting>,
    /// Checked addresses of clients.
    by_address: HashMap<SocketAddr, PeerKey>,
    /// Datagrams of handshakes, which cost much more than others.
    handshakes: VecDeque<(PeerKey, Vec<u8>)>,
    /// Datagrams to send that are not media.
    control: VecDeque<(SocketAddr, Vec<u8>)>,
    /// Peers with media to send.
    ready: VecDeque<PeerKey>,
    /// Peers with something to tell.
    news: VecDeque<PeerKey>,
    /// Checks that may be looked at until the next sweep.
    checks: u32,
    sweep_at: Option<Instant>,
}

#[derive(Default)]
struct Meeting {
    peers: HashMap<ParticipantId, PeerKey>,
    /// Tracks that packets arrive on, the longest first.
    live: Vec<TrackId>,
}

impl Router {
    /// A router without meetings. `addresses` are where clients reach the worker with this number.
    pub fn new(worker: u8, identity: Identity, addresses: Vec<SocketAddr>, rng: StdRng) -> Self {
        Self {
            worker,
            identity,
            addresses,
            rng,
            slab: Slab::new(SLAB),
            peers: SlotMap::with_key(),
            meetings: HashMap::new(),
            by_address: HashMap::new(),
            handshakes: VecDeque::new(),
            control: VecDeque::new(),
            ready: VecDeque::new(),
            news: VecDeque::new(),
            checks: CHECKS,
            sweep_at: None,
        }
    }

    /// Takes a datagram, the first `length` bytes of `buffer`, which may come back with other contents.
    pub fn handle_datagram(
        &mut self,
        buffer: &mut Buffer,
        length: usize,
        from: SocketAddr,
        now: Instant,
    ) {
        let Some(datagram) = buffer.get_mut(..length) else {
            return;
        };
        // What a datagram is, is told by its first byte (RFC 7983).
        match datagram.first() {
            Some(0..=3) => self.handle_check(datagram, from, now),
            Some(20..=63) => self.handle_dtls(datagram, from, now),
            Some(128..=191) => {
                let Some(&key) = self.by_address.get(&from) else {
                    return;
                };
                if rtcp::is_rtcp(datagram) {
                    self.handle_rtcp(key, datagram, now);
                } else {
                    self.handle_rtp(key, buffer, length, now);
                }
            }
            _ => {}
        }
    }

    /// A STUN binding request; other STUN messages are not for a lite agent.
    fn handle_check(&mut self, datagram: &[u8], from: SocketAddr, now: Instant) {
        let Some(request) = Request::parse(datagram) else {
            return;
        };
        let Some((worker, key)) = ice::peer_of(request.local_ufrag) else {
            return;
        };
        if worker != self.worker {
            return;
        }
        if !self.peers.contains_key(key) {
            return;
        }
        // A check costs a hash; a flood of them must not cost the media their time.
        let Some(left) = self.checks.checked_sub(1) else {
            return;
        };
        self.checks = left;
        // An address in use is not given away, or whoever can forge it could cut off the one who has it.
        let holder = self.by_address.get(&from).filter(|holder| **holder != key);
        if holder.is_some_and(|holder| self.peers.get(*holder).is_some_and(Peer::is_up)) {
            return;
        }
        let Some(peer) = self.peers.get_mut(key) else {
            return;
        };
        let Ok(answered) = peer.agent.handle_request(&request, from, now) else {
            return;
        };
        if let Some(forgotten) = answered.forgotten
            && self.by_address.get(&forgotten) == Some(&key)
        {
            self.by_address.remove(&forgotten);
        }
        self.by_address.insert(from, key);
        if peer.connection == Connection::Down(LostReason::Consent) && peer.has_keys() {
            peer.connection = Connection::Up;
            self.tell(key, |news| news.connection = true);
        }
        send(&mut self.control, from, answered.response);
        self.flush_dtls(key);
    }

    fn handle_dtls(&mut self, datagram: &[u8], from: SocketAddr, now: Instant) {
        let Some(&key) = self.by_address.get(&from) else {
            return;
        };
        let Some(peer) = self.peers.get(key) else {
            return;
        };
        if peer.has_keys() {
            self.run_dtls(key, datagram, now);
        } else if self.handshakes.len() < HANDSHAKES {
            self.handshakes.push_back((key, datagram.to_vec()));
        }
    }

    fn run_dtls(&mut self, key: PeerKey, datagram: &[u8], now: Instant) {
        let Some(peer) = self.peers.get_mut(key) else {
            return;
        };
        if matches!(peer.connection, Connection::Down(reason) if reason != LostReason::Consent) {
            return;
        }
        let had_keys = peer.has_keys();
        let outcome = peer.handle_dtls(datagram, now);
        let connected = !had_keys && peer.has_keys();
        if connected && outcome.is_ok() {
            peer.connection = Connection::Up;
            self.tell(key, |news| news.connection = true);
            self.request_waiting_key_frames(key, now);
        }
        if let Err(ended) = outcome {
            self.end(key, ended.into());
        }
        self.flush_dtls(key);
    }

    fn flush_dtls(&mut self, key: PeerKey) {
        let Some(peer) = self.peers.get_mut(key) else {
            return;
        };
        while let Some((to, datagram)) = peer.poll_dtls() {
            send(&mut self.control, to, datagram.to_vec());
        }
    }

    /// The connection is over; what it published is gone.
    fn end(&mut self, key: PeerKey, reason: LostReason) {
        let Some(peer) = self.peers.get_mut(key) else {
            return;
        };
        if peer.connection == Connection::Down(reason) {
            return;
        }
        tracing::debug!(participant.id = %peer.participant, %reason, "media connection lost");
        peer.connection = Connection::Down(reason);
        let meeting = peer.meeting;
        for position in 0..peer.tracks.len() {
            self.set_live(
                TrackId {
                    peer: key,
                    track: position,
                },
                false,
            );
        }
        self.tell(key, |news| news.connection = true);
        self.assign_slots(meeting);
    }

    fn handle_rtp(&mut self, key: PeerKey, buffer: &mut Buffer, length: usize, now: Instant) {
        let Some(peer) = self.peers.get_mut(key).filter(|peer| peer.is_up()) else {
            return;
        };
        let Some(datagram) = buffer.get_mut(..length) else {
            return;
        };
        let Some(Opened {
            header,
            sequence,
            payload_length,
            track: position,
        }) = peer.open_rtp(datagram)
        else {
            return;
        };
        let Some(track) = peer.tracks.get_mut(position) else {
            return;
        };
        let id = TrackId {
            peer: key,
            track: position,
        };

        let new_stream = track.stream != Some(header.source);
        if new_stream {
            track.restart(Some(header.source));
        }
        let payload_end = header.length.saturating_add(payload_length);
        let payload = datagram.get(header.length..payload_end).unwrap_or_default();
        let begins = match track.media.kind {
            Kind::Audio => true,
            Kind::Video => vp8::begins_key_frame(payload),
        };
        if begins {
            track.key_frames.handle_key_frame();
        }
        track
            .reception
            .handle_packet(sequence, header.timestamp, now);
        if track.media.feedback.nack && !track.gaps.handle_packet(sequence, now) {
            track.key_frames.request();
        }
        let level = track
            .media
            .audio_level_extension
            .and_then(|id| header.extension(datagram, id));
        let packet = Packet {
            sequence,
            timestamp: header.timestamp,
            marker: header.marker,
            audio_level: level.and_then(|value| value.first().copied()),
            payload_offset: u16::try_from(header.length).unwrap_or(u16::MAX),
            payload_length: u16::try_from(payload_length).unwrap_or(u16::MAX),
        };
        let handle = self.slab.keep(buffer, packet);
        track.cache.insert(sequence, handle);

        let live = track.live;
        if new_stream {
            self.restart_slots(id);
        }
        if !live {
            self.set_live(id, true);
            if let Some(meeting) = self.peers.get(key).map(|peer| peer.meeting) {
                self.assign_slots(meeting);
            }
        }
        self.forward(id, &packet, begins, handle, now);
        self.ask_for_key_frame(id, now);
    }

    /// Queues a packet for everybody who sees its track.
    fn forward(
        &mut self,
        id: TrackId,
        packet: &Packet,
        begins: bool,
        handle: super::slab::Handle,
        now: Instant,
    ) {
        let Some(track) = self.track_mut(id) else {
            return;
        };
        let mut wanted = false;
        // Taken out for the walk, because the subscribers live beside the publisher.
        let subscribers = std::mem::take(&mut track.subscribers);
        for &(key, position) in &subscribers {
            let Some(peer) = self.peers.get_mut(key).filter(|peer| peer.is_up()) else {
                continue;
            };
            let Some(slot) = peer.slots.get_mut(position) else {
                continue;
            };
            match slot.rewriter.handle_packet(packet, begins, now) {
                Some(rewritten) => {
                    if peer.push(Outgoing {
                        slot: position,
                        handle,
                        rewritten,
                    }) {
                        self.ready.push_back(key);
                    }
                }
                None => wanted |= slot.rewriter.is_waiting(),
            }
        }
        if let Some(track) = self.track_mut(id) {
            track.subscribers = subscribers;
            if wanted {
                track.key_frames.request();
            }
        }
    }

    fn handle_rtcp(&mut self, key: PeerKey, datagram: &mut [u8], now: Instant) {
        let Some(peer) = self.peers.get_mut(key) else {
            return;
        };
        let Some(length) = peer.open_rtcp(datagram) else {
            return;
        };
        for message in rtcp::messages(datagram.get(..length).unwrap_or_default()) {
            let Some(peer) = self.peers.get_mut(key) else {
                return;
            };
            match message {
                Message::SenderReport {
                    source,
                    ntp,
                    timestamp,
                } => {
                    if let Some(track) = peer
                        .track_of_stream(source)
                        .and_then(|track| peer.tracks.get_mut(track))
                    {
                        track.reception.handle_sender_report(ntp, timestamp, now);
                    }
                }
                Message::Nack { source, lost } => {
                    if let Some(slot) = peer.slot_of(source) {
                        self.send_again(key, slot, lost);
                    }
                }
                Message::KeyFrameRequest { source } => {
                    let shown = peer
                        .slot_of(source)
                        .and_then(|slot| peer.slots.get(slot)?.track);
                    if let Some(id) = shown {
                        if let Some(track) = self.track_mut(id) {
                            track.key_frames.request();
                        }
                        self.ask_for_key_frame(id, now);
                    }
                }
                Message::Goodbye { source } => {
                    let meeting = peer.meeting;
                    if let Some(track) = peer.track_of_stream(source) {
                        self.set_live(TrackId { peer: key, track }, false);
                        self.assign_slots(meeting);
                    }
                }
                Message::Report(_) => {} // what bandwidth estimation will read
            }
        }
    }

    /// Queues packets that a subscriber says it lost, those that are still there.
    fn send_again(&mut self, key: PeerKey, position: usize, lost: rtcp::Lost<'_>) {
        for sequence in lost.sequences() {
            let Some(peer) = self.peers.get_mut(key).filter(|peer| peer.is_up()) else {
                return;
            };
            let Some(left) = peer.resends.checked_sub(1) else {
                return;
            };
            let Some(slot) = peer.slots.get(position) else {
                return;
            };
            let Some((id, source)) = slot.track.zip(slot.rewriter.source_of(sequence)) else {
                continue;
            };
            let Some(track) = self
                .peers
                .get(id.peer)
                .and_then(|peer| peer.tracks.get(id.track))
            else {
                return;
            };
            let Some((handle, packet)) = track.cache.find(source, &self.slab) else {
                continue;
            };
            let Some(peer) = self.peers.get_mut(key) else {
                return;
            };
            let Some(rewritten) = peer
                .slots
                .get(position)
                .and_then(|slot| slot.rewriter.rewrite_again(packet))
            else {
                continue;
            };
            peer.resends = left;
            if peer.push(Outgoing {
                slot: position,
                handle,
                rewritten,
            }) {
                self.ready.push_back(key);
            }
        }
    }

    /// Asks the publisher for a key frame, if somebody needs one and it was not asked lately.
    fn ask_for_key_frame(&mut self, id: TrackId, now: Instant) {
        let Some(peer) = self.peers.get_mut(id.peer).filter(|peer| peer.is_up()) else {
            return;
        };
        let reporter = peer.reporter;
        let Some(track) = peer.tracks.get_mut(id.track) else {
            return;
        };
        let Some(stream) = track.stream.filter(|_| track.media.kind == Kind::Video) else {
            return;
        };
        if track.key_frames.poll(now) {
            let mut writer = Writer::new();
            self.send_rtcp(id.peer, writer.key_frame_request(reporter, stream));
        }
    }

    /// A subscriber can be sent to: the tracks it waits for are asked for key frames.
    fn request_waiting_key_frames(&mut self, key: PeerKey, now: Instant) {
        let Some(peer) = self.peers.get(key) else {
            return;
        };
        let waiting: Vec<TrackId> = peer
            .slots
            .iter()
            .filter(|slot| slot.rewriter.is_waiting())
            .filter_map(|slot| slot.track)
            .collect();
        for id in waiting {
            if let Some(track) = self.track_mut(id) {
                track.key_frames.request();
            }
            self.ask_for_key_frame(id, now);
        }
    }

    fn send_rtcp(&mut self, key: PeerKey, writer: &Writer) {
        if let Some((to, packet)) = self
            .peers
            .get_mut(key)
            .and_then(|peer| peer.seal_rtcp(writer.bytes()))
        {
            send(&mut self.control, to, packet);
        }
    }

    fn track_mut(&mut self, id: TrackId) -> Option<&mut Track> {
        self.peers.get_mut(id.peer)?.tracks.get_mut(id.track)
    }

    fn slot_mut(&mut self, (peer, slot): (PeerKey, usize)) -> Option<&mut Slot> {
        self.peers.get_mut(peer)?.slots.get_mut(slot)
    }

    /// The slots that show a track wait for a packet that a decoder can start with.
    fn restart_slots(&mut self, id: TrackId) {
        let subscribers = self
            .track_mut(id)
            .map(|track| track.subscribers.clone())
            .unwrap_or_default();
        for subscriber in subscribers {
            if let Some(slot) = self.slot_mut(subscriber) {
                slot.rewriter.restart();
            }
        }
    }

    /// Packets of a track arrive, or no longer do.
    fn set_live(&mut self, id: TrackId, live: bool) {
        let Some(peer) = self.peers.get_mut(id.peer) else {
            return;
        };
        let meeting = peer.meeting;
        let Some(track) = peer.tracks.get_mut(id.track) else {
            return;
        };
        if track.live == live {
            return;
        }
        track.live = live;
        if !live {
            track.restart(None);
        }
        if let Some(meeting) = self.meetings.get_mut(&meeting) {
            if live {
                meeting.live.push(id);
            } else {
                meeting.live.retain(|other| *other != id);
            }
        }
        self.tell(id.peer, |news| news.tracks = true);
    }

    /// Gives every subscriber of a meeting the tracks it can show, and nobody its own.
    fn assign_slots(&mut self, meeting: MeetingId) {
        let Some(Meeting { peers, live }) = self.meetings.get(&meeting) else {
            return;
        };
        let keys: Vec<PeerKey> = peers.values().copied().collect();
        let live = live.clone();
        let kind_of = |peers: &SlotMap<PeerKey, Peer>, id: &TrackId| {
            peers
                .get(id.peer)
                .and_then(|peer| peer.tracks.get(id.track))
                .map(|track| track.media.kind)
        };
        for key in keys {
            let mut changes = Vec::new();
            for kind in [Kind::Audio, Kind::Video] {
                let available: Vec<TrackId> = live
                    .iter()
                    .filter(|id| id.peer != key && kind_of(&self.peers, id) == Some(kind))
                    .copied()
                    .collect();
                let Some(peer) = self.peers.get(key) else {
                    continue;
                };
                let positions: Vec<usize> = peer.slots_of(kind).collect();
                let before: Vec<Option<TrackId>> = positions
                    .iter()
                    .map(|position| peer.slots.get(*position).and_then(|slot| slot.track))
                    .collect();
                let mut after = before.clone();
                slots::assign(&mut after, &available);
                let changed = positions.into_iter().zip(before.into_iter().zip(after));
                changes.extend(changed.filter(|(_, (before, after))| before != after));
            }
            for (position, (before, after)) in changes {
                self.show(key, position, before, after);
            }
        }
    }

    /// Changes the track that a slot shows.
    fn show(
        &mut self,
        key: PeerKey,
        position: usize,
        before: Option<TrackId>,
        after: Option<TrackId>,
    ) {
        if let Some(track) = before.and_then(|id| self.track_mut(id)) {
            track
                .subscribers
                .retain(|subscriber| *subscriber != (key, position));
        }
        if let Some(slot) = self.slot_mut((key, position)) {
            slot.track = after;
            slot.rewriter.restart();
        }
        // One that is not connected yet asks when it is: a key frame before that would be wasted.
        let up = self.peers.get(key).is_some_and(Peer::is_up);
        if let Some(track) = after.and_then(|id| self.track_mut(id)) {
            track.subscribers.push((key, position));
            if up {
                track.key_frames.request();
            }
        }
        self.tell(key, |news| news.slots = true);
    }

    /// Remembers that the outside is to be told something of a peer.
    fn tell(&mut self, key: PeerKey, what: impl FnOnce(&mut super::peer::News)) {
        let Some(peer) = self.peers.get_mut(key) else {
            return;
        };
        what(&mut peer.news);
        if !peer.news.queued {
            peer.news.queued = true;
            self.news.push_back(key);
        }
    }

    /// Answers an offer. One with the certificate of before is about the same connection, which goes on; one with another
    /// replaces it.
    ///
    /// # Errors
    ///
    /// When the offer cannot be answered; then nothing has changed.
    pub fn negotiate(
        &mut self,
        negotiation: Negotiation,
        now: Instant,
    ) -> Result<String, NegotiationError> {
        let Negotiation {
            meeting,
            peer: participant,
            offer,
            tracks,
            allowed,
        } = negotiation;
        let roles = wanted_roles(&offer, &tracks, &allowed)?;
        let known = self
            .meetings
            .get(&meeting)
            .and_then(|meeting| meeting.peers.get(&participant))
            .copied();
        let kept = known.filter(|key| {
            self.peers.get(*key).is_some_and(|peer| {
                let same = peer.fingerprints == offer.fingerprints;
                let over = matches!(peer.connection, Connection::Down(reason) if reason != LostReason::Consent);
                same && !over
            })
        });
        let key = match kept {
            Some(key) if self.peers.get(key).is_some_and(Peer::is_full) => {
                return Err(NegotiationError::TooManySections);
            }
            Some(key) => {
                self.restart_ice(key, &offer);
                key
            }
            None => self.connect(meeting, participant, &offer, now)?,
        };
        self.apply(key, &offer, &roles);
        self.assign_slots(meeting);
        self.tell(key, |news| news.slots = true);
        self.sweep_at.get_or_insert(now);

        let peer = self.peers.get_mut(key).ok_or(NegotiationError::Full)?;
        peer.version = peer.version.wrapping_add(1);
        let roles: Vec<Role> = offer
            .sections
            .iter()
            .zip(&roles)
            .map(|(section, wanted)| match wanted {
                Wanted::Nothing => Role::Inactive,
                Wanted::Track(_) => Role::Track,
                Wanted::Slot => {
                    let slot = peer.slots.iter().find(|slot| slot.mid == section.mid);
                    slot.map_or(Role::Inactive, |slot| Role::Slot(slot.stream))
                }
            })
            .collect();
        let local = Local {
            session: peer.session,
            version: peer.version,
            credentials: peer.agent.credentials(),
            fingerprint: self.identity.fingerprint(),
            addresses: &self.addresses,
            roles: &roles,
        };
        Ok(sdp::answer(&offer, &local))
    }

    fn restart_ice(&mut self, key: PeerKey, offer: &Offer) {
        if let Some(peer) = self.peers.get_mut(key)
            && peer.agent.is_restarted_by(&offer.ufrag)
        {
            let local = Credentials::new(self.worker, key, &mut self.rng);
            peer.agent.restart(local, offer.ufrag.clone());
        }
    }

    /// A new connection for a participant, in place of one it may have.
    fn connect(
        &mut self,
        meeting: MeetingId,
        participant: ParticipantId,
        offer: &Offer,
        now: Instant,
    ) -> Result<PeerKey, NegotiationError> {
        if self.peers.len() >= PEERS {
            return Err(NegotiationError::Full);
        }
        let transport = self
            .identity
            .accept(offer.fingerprints.clone())
            .map_err(|error| {
                tracing::error!(%error, "cannot make a media connection");
                NegotiationError::Full
            })?;
        let mut gone = Vec::new();
        if let Some(old) = self
            .meetings
            .get(&meeting)
            .and_then(|meeting| meeting.peers.get(&participant))
            .copied()
        {
            gone = self.drop_peer(old, now);
        }
        let reporter = self.stream();
        let session = self.rng.random::<u64>() >> 2; // positive for those who read it as signed
        let (worker, rng) = (self.worker, &mut self.rng);
        let key = self.peers.insert_with_key(|key| {
            let agent = Agent::new(Credentials::new(worker, key, rng), offer.ufrag.clone());
            let fingerprints = offer.fingerprints.clone();
            Peer::new(
                meeting,
                participant,
                fingerprints,
                agent,
                Box::new(transport),
                reporter,
                session,
                now,
            )
        });
        self.meetings
            .entry(meeting)
            .or_default()
            .peers
            .insert(participant, key);
        if !gone.is_empty() {
            self.tell(key, |news| {
                news.gone = gone;
                news.tracks = true;
            });
        }
        Ok(key)
    }

    /// Brings tracks and slots of a peer up to date with its offer; both keep their positions for good.
    fn apply(&mut self, key: PeerKey, offer: &Offer, roles: &[Wanted]) {
        let mut ended = Vec::new();
        let Some(peer) = self.peers.get_mut(key) else {
            return;
        };
        for (position, track) in peer.tracks.iter_mut().enumerate() {
            let mut sections = offer.sections.iter().zip(roles);
            let wanted = sections.find(|(section, wanted)| {
                section.mid == track.mid && **wanted == Wanted::Track(track.source)
            });
            match wanted.and_then(|(section, _)| section.media.clone()) {
                Some(media) => track.media = media,
                None => ended.push(TrackId {
                    peer: key,
                    track: position,
                }),
            }
        }
        for id in ended {
            self.set_live(id, false);
            if let Some(track) = self.track_mut(id) {
                track.media.sources.clear();
                track.media.mid_extension = None;
                track.media.payload_type = NO_PAYLOAD_TYPE;
            }
        }
        for (section, wanted) in offer.sections.iter().zip(roles) {
            let Some(media) = &section.media else {
                continue;
            };
            let source = match wanted {
                Wanted::Track(source) => *source,
                _ => continue,
            };
            let Some(peer) = self.peers.get_mut(key) else {
                return;
            };
            if !peer
                .tracks
                .iter()
                .any(|track| track.mid == section.mid && track.source == source)
            {
                peer.tracks
                    .push(Track::new(section.mid.clone(), source, media.clone()));
            }
        }
        self.apply_slots(key, offer, roles);
        if let Some(peer) = self.peers.get_mut(key) {
            peer.bind_streams();
        }
    }

    fn apply_slots(&mut self, key: PeerKey, offer: &Offer, roles: &[Wanted]) {
        let mut closed = Vec::new();
        let Some(peer) = self.peers.get_mut(key) else {
            return;
        };
        for (position, slot) in peer.slots.iter_mut().enumerate() {
            let mut sections = offer.sections.iter().zip(roles);
            let media = sections
                .find(|(section, wanted)| section.mid == slot.mid && **wanted == Wanted::Slot)
                .and_then(|(section, _)| section.media.as_ref());
            slot.open = media.is_some();
            match media {
                // Under other numbers a packet sent again would be another one.
                Some(media) if *media != slot.media => {
                    slot.media = media.clone();
                    slot.rewriter.restart();
                }
                Some(_) => {}
                None => closed.extend(slot.track.map(|track| (position, track))),
            }
        }
        for (position, track) in closed {
            self.show(key, position, Some(track), None);
        }
        for (section, wanted) in offer.sections.iter().zip(roles) {
            let Some(media) = section.media.as_ref().filter(|_| *wanted == Wanted::Slot) else {
                continue;
            };
            let known = self
                .peers
                .get(key)
                .is_some_and(|peer| peer.slots.iter().any(|slot| slot.mid == section.mid));
            if known {
                continue;
            }
            let stream = self.stream();
            let first = self.rng.random::<u16>();
            let Some(peer) = self.peers.get_mut(key) else {
                return;
            };
            peer.slots.push(Slot {
                mid: section.mid.clone(),
                media: media.clone(),
                stream,
                open: true,
                track: None,
                rewriter: Rewriter::new(media.kind.clock_rate(), first),
            });
        }
    }

    /// A number for a stream of ours. Two of one connection are alike once in a million connections of a hundred slots.
    fn stream(&mut self) -> u32 {
        self.rng.next_u32()
    }

    /// Ends a participant's connection; nothing is told of it.
    pub fn remove(&mut self, meeting: MeetingId, participant: ParticipantId, now: Instant) {
        let Some(key) = self
            .meetings
            .get_mut(&meeting)
            .and_then(|meeting| meeting.peers.remove(&participant))
        else {
            return;
        };
        self.drop_peer(key, now);
        if self
            .meetings
            .get(&meeting)
            .is_some_and(|meeting| meeting.peers.is_empty())
        {
            self.meetings.remove(&meeting);
        }
    }

    /// Ends all connections of a meeting.
    pub fn close(&mut self, meeting: MeetingId, now: Instant) {
        let peers: Option<Vec<_>> = self
            .meetings
            .get(&meeting)
            .map(|meeting| meeting.peers.keys().copied().collect());
        for participant in peers.unwrap_or_default() {
            self.remove(meeting, participant, now);
        }
    }

    /// Ends everything.
    pub fn close_all(&mut self, now: Instant) {
        let meetings: Vec<MeetingId> = self.meetings.keys().copied().collect();
        for meeting in meetings {
            self.close(meeting, now);
        }
    }

    /// Takes a peer away; the sources that the outside believes it publishes.
    fn drop_peer(&mut self, key: PeerKey, now: Instant) -> Vec<Source> {
        if let Some(peer) = self.peers.get_mut(key) {
            peer.close(now);
        }
        self.flush_dtls(key);
        let Some(peer) = self.peers.remove(key) else {
            return Vec::new();
        };
        for path in peer.agent.paths() {
            if self.by_address.get(path) == Some(&key) {
                self.by_address.remove(path);
            }
        }
        for (position, slot) in peer.slots.iter().enumerate() {
            if let Some(track) = slot.track.and_then(|id| self.track_mut(id)) {
                track
                    .subscribers
                    .retain(|subscriber| *subscriber != (key, position));
            }
        }
        if let Some(meeting) = self.meetings.get_mut(&peer.meeting) {
            meeting.peers.retain(|_, other| *other != key);
            meeting.live.retain(|id| id.peer != key);
        }
        self.assign_slots(peer.meeting);
        let mut gone = peer.news.gone;
        gone.extend(
            peer.tracks
                .iter()
                .filter(|track| track.told)
                .map(|track| track.source),
        );
        gone
    }

    /// Writes the next datagram into `buffer`; where it goes, and its length. Those of one subscriber come in a row.
    pub fn poll_transmit(&mut self, buffer: &mut [u8]) -> Option<(SocketAddr, usize)> {
        while let Some((to, datagram)) = self.control.pop_front() {
            if let Some(place) = buffer.get_mut(..datagram.len()) {
                place.copy_from_slice(&datagram);
                return Some((to, datagram.len()));
            }
        }
        while let Some(key) = self.ready.front() {
            let peer = self.peers.get_mut(*key);
            if let Some(transmit) = peer.and_then(|peer| peer.poll_media(&self.slab, buffer)) {
                return Some(transmit);
            }
            self.ready.pop_front();
        }
        None
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due; `None` while there are no peers.
    pub fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        if self.handshakes.is_empty() {
            self.sweep_at
        } else {
            Some(now)
        }
    }

    /// Goes on with handshakes and, when it is time, visits every peer.
    pub fn handle_timeout(&mut self, now: Instant) {
        for _ in 0..HANDSHAKES_PER_TURN {
            let Some((key, datagram)) = self.handshakes.pop_front() else {
                break;
            };
            self.run_dtls(key, &datagram, now);
        }
        if self.sweep_at.is_some_and(|due| due <= now) {
            self.checks = CHECKS;
            let keys: Vec<PeerKey> = self.peers.keys().collect();
            self.sweep_at = if keys.is_empty() {
                None
            } else {
                now.checked_add(SWEEP)
            };
            for key in keys {
                self.sweep(key, now);
            }
        }
    }

    /// What is not bound to a packet: lost consent, repeated handshakes, requests for lost packets, reports.
    fn sweep(&mut self, key: PeerKey, now: Instant) {
        let Some(peer) = self.peers.get_mut(key) else {
            return;
        };
        peer.resends = RESENDS;
        let passed = |until: Option<Instant>| until.is_some_and(|until| until <= now);
        let (consent, patience) = (peer.agent.consent_until(), peer.since.checked_add(CONNECT));
        let over = match peer.connection {
            Connection::Pending if passed(patience) && consent.is_none() => {
                Some(LostReason::Consent)
            }
            Connection::Pending if passed(patience) => Some(LostReason::Handshake),
            Connection::Up if passed(consent) => Some(LostReason::Consent),
            _ => None,
        };
        let over = peer
            .handle_timeout(now)
            .err()
            .map(LostReason::from)
            .or(over);
        self.flush_dtls(key);
        if let Some(reason) = over {
            self.end(key, reason);
        }
        let Some(peer) = self.peers.get_mut(key).filter(|peer| peer.is_up()) else {
            return;
        };
        let (reporter, meeting) = (peer.reporter, peer.meeting);
        let mut silent = Vec::new();
        let mut writer = Writer::new();
        for (position, track) in peer.tracks.iter_mut().enumerate() {
            if track.live && track.reception.is_silent(now) {
                silent.push(TrackId {
                    peer: key,
                    track: position,
                });
            }
            let Some(stream) = track.stream else { continue };
            let lost = track.gaps.poll_requests(now);
            if !lost.is_empty() {
                writer.nack(reporter, stream, lost);
            }
        }
        if !writer.bytes().is_empty() {
            self.send_rtcp(key, &writer);
        }
        if !silent.is_empty() {
            for id in silent {
                self.set_live(id, false);
            }
            self.assign_slots(meeting);
        }
        let tracks = self.peers.get(key).map_or(0, |peer| peer.tracks.len());
        for track in 0..tracks {
            self.ask_for_key_frame(TrackId { peer: key, track }, now);
        }
        if self
            .peers
            .get(key)
            .is_some_and(|peer| peer.report_at <= now)
        {
            self.report(key, now);
        }
    }

    /// Sends the reports that are due every second: how the peer's tracks arrive, and what its slots carry.
    fn report(&mut self, key: PeerKey, now: Instant) {
        let Some(peer) = self.peers.get_mut(key) else {
            return;
        };
        peer.report_at = now.checked_add(REPORT_INTERVAL).unwrap_or(now);
        let reporter = peer.reporter;
        let reports: Vec<rtcp::Report> = peer
            .tracks
            .iter_mut()
            .filter_map(|track| track.reception.report(track.stream?, now))
            .collect();
        let mut writer = Writer::new();
        writer
            .receiver_report(reporter, &reports)
            .name(reporter, CNAME);
        let slots: Vec<(usize, TrackId)> = peer
            .slots
            .iter()
            .enumerate()
            .filter_map(|(position, slot)| Some((position, slot.track?)))
            .collect();
        for (position, id) in slots {
            let clock = self.track_mut(id).and_then(|track| track.reception.clock());
            let slot = self.slot_mut((key, position));
            let Some((slot, clock)) = slot.zip(clock) else {
                continue;
            };
            let stream = slot.stream;
            let Some((ntp, timestamp, packets, octets)) = slot.rewriter.sender_report(&clock, now)
            else {
                continue;
            };
            writer
                .sender_report(stream, ntp, timestamp, packets, octets)
                .name(stream, CNAME);
            if writer.bytes().len() >= REPORT_SIZE {
                let full = std::mem::take(&mut writer);
                self.send_rtcp(key, &full);
            }
        }
        if !writer.bytes().is_empty() {
            self.send_rtcp(key, &writer);
        }
    }

    /// Tells what happened, as long as `emit` takes it; what it refuses is told later, as it is then.
    pub fn poll_events(&mut self, mut emit: impl FnMut(Event) -> bool) {
        while let Some(&key) = self.news.front() {
            if !self.emit_news(key, &mut emit) {
                return;
            }
            self.news.pop_front();
            if let Some(peer) = self.peers.get_mut(key) {
                peer.news.queued = false;
            }
        }
    }

    /// Whether everything there was to tell of a peer was told.
    fn emit_news(&mut self, key: PeerKey, emit: &mut impl FnMut(Event) -> bool) -> bool {
        let slots = self.slot_views(key);
        let Some(peer) = self.peers.get_mut(key) else {
            return true;
        };
        let (meeting, participant) = (peer.meeting, peer.participant);
        while let Some(&source) = peer.news.gone.last() {
            if !emit(Event::Unpublished {
                meeting,
                peer: participant,
                source,
            }) {
                return false;
            }
            peer.news.gone.pop();
        }
        if peer.news.connection {
            let told = match peer.connection {
                Connection::Pending => true,
                Connection::Up => emit(Event::Connected {
                    meeting,
                    peer: participant,
                }),
                Connection::Down(reason) => emit(Event::Lost {
                    meeting,
                    peer: participant,
                    reason,
                }),
            };
            if !told {
                return false;
            }
            peer.news.connection = false;
        }
        if peer.news.tracks {
            for track in peer
                .tracks
                .iter_mut()
                .filter(|track| track.live != track.told)
            {
                let source = track.source;
                let event = if track.live {
                    Event::Published {
                        meeting,
                        peer: participant,
                        source,
                    }
                } else {
                    Event::Unpublished {
                        meeting,
                        peer: participant,
                        source,
                    }
                };
                if !emit(event) {
                    return false;
                }
                track.told = track.live;
            }
            peer.news.tracks = false;
        }
        if peer.news.slots {
            if !emit(Event::Slots {
                meeting,
                peer: participant,
                slots,
            }) {
                return false;
            }
            peer.news.slots = false;
        }
        true
    }

    fn slot_views(&self, key: PeerKey) -> Vec<SlotView> {
        let Some(peer) = self.peers.get(key).filter(|peer| peer.news.slots) else {
            return Vec::new();
        };
        let view = |slot: &Slot| {
            let shown = slot.track.and_then(|id| {
                let publisher = self.peers.get(id.peer)?;
                Some((
                    publisher.participant,
                    publisher.tracks.get(id.track)?.source,
                ))
            });
            SlotView {
                mid: slot.mid.clone(),
                shows: shown,
            }
        };
        peer.slots
            .iter()
            .filter(|slot| slot.open)
            .map(view)
            .collect()
    }
}

/// What becomes of an m-line, before it is known as which stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Nothing,
    Track(Source),
    Slot,
}

/// What becomes of each m-line: what the client sends is named and allowed, what it receives is a slot.
fn wanted_roles(
    offer: &Offer,
    tracks: &[(String, Source)],
    allowed: &HashSet<Source>,
) -> Result<Vec<Wanted>, NegotiationError> {
    let mut named = HashSet::new();
    for (mid, source) in tracks {
        let section = offer.sections.iter().find(|section| section.mid == *mid);
        let problem = |problem| NegotiationError::Section {
            mid: mid.clone(),
            problem,
        };
        let section =
            section.ok_or_else(|| problem("it is named in `tracks` and not in the offer"))?;
        if section
            .media
            .as_ref()
            .is_some_and(|media| media.kind != source.kind())
        {
            return Err(problem(
                "it is audio and named as a video source, or the other way round",
            ));
        }
        if !named.insert(*source) {
            return Err(problem("its source is named for another m-line too"));
        }
    }
    let role = |section: &sdp::Section| {
        let source = tracks
            .iter()
            .find(|(mid, _)| *mid == section.mid)
            .map(|(_, source)| *source);
        match source.filter(|source| section.sends && allowed.contains(source)) {
            Some(source) => Wanted::Track(source),
            None if section.receives => Wanted::Slot,
            None => Wanted::Nothing,
        }
    };
    Ok(offer
        .sections
        .iter()
        .map(|section| {
            if section.media.is_some() {
                role(section)
            } else {
                Wanted::Nothing
            }
        })
        .collect())
}

impl From<Ended> for LostReason {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::Closed => Self::Closed,
            Ended::Fingerprint => Self::Fingerprint,
            Ended::Handshake => Self::Handshake,
        }
    }
}

/// Queues a datagram; a full queue loses it, as a network would.
fn send(control: &mut VecDeque<(SocketAddr, Vec<u8>)>, to: SocketAddr, datagram: Vec<u8>) {
    if control.len() < CONTROL {
        control.push_back((to, datagram));
    }
}

/// Packets a worker keeps: some seconds of ten publishers, in 12 MiB.
const SLAB: usize = 8_192;
/// Peers of one worker; a bound for memory, far above what one core can serve.
const PEERS: usize = 10_000;
/// How often every peer is visited: the grain of retransmission requests, far below a frame of consent or reports.
const SWEEP: Duration = Duration::from_millis(20);
/// Connectivity checks answered per sweep: each costs two hashes, so these cost at most 5 % of the time.
const CHECKS: u32 = 400;
/// Handshake datagrams handled per turn. One costs up to a millisecond, in which packets of running meetings wait.
const HANDSHAKES_PER_TURN: usize = 4;
/// Handshake datagrams that wait; beyond, clients repeat them.
const HANDSHAKES: usize = 1_024;
/// Control datagrams that wait to be sent.
const CONTROL: usize = 8_192;
/// Packets sent again per subscriber and sweep: 2,500/s, above the whole rate of an honest one.
const RESENDS: u32 = 50;
/// Reports are small, and lip sync wants them soon.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// Reports are split above this size, so that one fits a datagram with what is added last.
const REPORT_SIZE: usize = 1_100;
/// How long a new connection may take until media can flow.
const CONNECT: Duration = CONSENT.saturating_mul(2);
/// Matches no packet.
const NO_PAYLOAD_TYPE: u8 = u8::MAX;

#[cfg(test)]
mod tests;
