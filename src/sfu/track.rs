//! One media source of a participant as it arrives: what is missing, how well it came, and where its packets are kept.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::{
    Source,
    peer::PeerKey,
    rtcp::Report,
    rtp,
    sdp::{Kind, Media},
    slab::{Handle, Packet, Slab},
};

/// A track of a publisher.
pub struct Track {
    /// The m-line it arrives on.
    pub mid: String,
    /// What it is.
    pub source: Source,
    /// What was negotiated for it.
    pub media: Media,
    /// Whether packets arrive: from the first one until the stream ends.
    pub live: bool,
    /// Whether the outside was told that it is live.
    pub told: bool,
    /// The stream (SSRC) it arrives as.
    pub stream: Option<u32>,
    /// How it arrives.
    pub reception: Reception,
    /// What did not arrive.
    pub gaps: Gaps,
    /// When a key frame is asked for.
    pub key_frames: KeyFrameRequests,
    /// Its latest packets.
    pub cache: Cache,
    /// The slots that show it: the subscriber, and the slot's position with it.
    pub subscribers: Vec<(PeerKey, usize)>,
}

impl Track {
    /// A track of which nothing has arrived.
    pub fn new(mid: String, source: Source, media: Media) -> Self {
        let kind = media.kind;
        Self {
            mid,
            source,
            live: false,
            told: false,
            stream: None,
            reception: Reception::new(kind.clock_rate()),
            gaps: Gaps::default(),
            key_frames: KeyFrameRequests::default(),
            cache: Cache::new(match kind {
                Kind::Audio => AUDIO_CACHE,
                Kind::Video => VIDEO_CACHE,
            }),
            subscribers: Vec::new(),
            media,
        }
    }

    /// Begins anew with another stream, or with none.
    pub fn restart(&mut self, stream: Option<u32>) {
        self.stream = stream;
        self.reception = Reception::new(self.media.kind.clock_rate());
        self.gaps = Gaps::default();
        self.cache.clear();
    }
}

/// How a stream arrives (RFC 3550, appendix A).
pub struct Reception {
    clock_rate: u32,
    first: Option<u64>,
    highest: u64,
    received: u64,
    expected_at_report: u64,
    received_at_report: u64,
    /// Jitter in 1/16 of a clock tick.
    jitter: u32,
    /// Media time minus arrival time of the last packet, in clock ticks.
    transit: Option<u32>,
    epoch: Option<Instant>,
    clock: Option<Clock>,
    heard_at: Option<Instant>,
}

/// How media time relates to the publisher's clock, as its last sender report said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    ntp: u64,
    timestamp: u32,
    at: Instant,
    rate: u32,
}

impl Clock {
    /// A clock that showed `ntp` and `timestamp` at this instant, at so many ticks per second.
    pub fn new(ntp: u64, timestamp: u32, at: Instant, rate: u32) -> Self {
        Self {
            ntp,
            timestamp,
            at,
            rate,
        }
    }

    /// The publisher's clock (32.32 bit seconds) and the media time at `now`.
    pub fn at(&self, now: Instant) -> (u64, u32) {
        let passed = now.saturating_duration_since(self.at);
        (
            self.ntp.wrapping_add(fraction(passed, 1 << 32)),
            self.timestamp.wrapping_add(ticks(passed, self.rate)),
        )
    }
}

impl Reception {
    fn new(clock_rate: u32) -> Self {
        Self {
            clock_rate,
            first: None,
            highest: 0,
            received: 0,
            expected_at_report: 0,
            received_at_report: 0,
            jitter: 0,
            transit: None,
            epoch: None,
            clock: None,
            heard_at: None,
        }
    }

    /// Counts a packet.
    pub fn handle_packet(&mut self, sequence: u64, timestamp: u32, now: Instant) {
        let first = *self.first.get_or_insert(sequence);
        self.first = Some(first.min(sequence));
        self.received = self.received.wrapping_add(1);
        self.heard_at = Some(now);
        if self.received > 1 && sequence <= self.highest {
            return; // late packets say nothing of jitter: they may have been asked for
        }
        self.highest = sequence;
        let epoch = *self.epoch.get_or_insert(now);
        let arrival = ticks(now.saturating_duration_since(epoch), self.clock_rate);
        let transit = arrival.wrapping_sub(timestamp);
        if let Some(before) = self.transit.replace(transit) {
            let change = transit.wrapping_sub(before);
            let difference = change.min(change.wrapping_neg());
            let smoothed = self.jitter.saturating_add(8) / 16;
            self.jitter = self
                .jitter
                .saturating_sub(smoothed)
                .saturating_add(difference);
        }
    }

    /// Whether nothing has arrived for so long that the source must be off; clients do not say when they pause one.
    pub fn is_silent(&self, now: Instant) -> bool {
        self.heard_at
            .is_some_and(|at| now.saturating_duration_since(at) >= SILENCE)
    }

    /// Takes a sender report of the publisher.
    pub fn handle_sender_report(&mut self, ntp: u64, timestamp: u32, now: Instant) {
        self.clock = Some(Clock::new(ntp, timestamp, now, self.clock_rate));
    }

    /// How media time relates to the publisher's clock, once it has said so.
    pub fn clock(&self) -> Option<Clock> {
        self.clock
    }

    /// The report on stream `source` since the last one; `None` before the first packet.
    pub fn report(&mut self, source: u32, now: Instant) -> Option<Report> {
        let first = self.first?;
        let expected = self.highest.wrapping_sub(first).wrapping_add(1);
        let newly_expected = expected.saturating_sub(self.expected_at_report);
        let newly_received = self.received.saturating_sub(self.received_at_report);
        self.expected_at_report = expected;
        self.received_at_report = self.received;
        let newly_lost = newly_expected.saturating_sub(newly_received);
        let fraction_lost = newly_lost
            .saturating_mul(256)
            .checked_div(newly_expected)
            .unwrap_or(0);
        let lost = expected.saturating_sub(self.received).min(0x007f_ffff);
        let [_, _, _, _, highest @ ..] = self.highest.to_be_bytes();
        let (last_sender_report, delay) = self.clock.map_or((0, 0), |clock| {
            let [_, _, middle @ .., _, _] = clock.ntp.to_be_bytes();
            let passed = fraction(now.saturating_duration_since(clock.at), 1 << 16);
            (
                u32::from_be_bytes(middle),
                u32::try_from(passed).unwrap_or(u32::MAX),
            )
        });
        Some(Report {
            source,
            fraction_lost: u8::try_from(fraction_lost).unwrap_or(u8::MAX),
            lost: u32::try_from(lost).unwrap_or(0),
            highest: u32::from_be_bytes(highest),
            jitter: self.jitter / 16,
            last_sender_report,
            delay,
        })
    }
}

/// A duration in ticks of a clock; wraps as timestamps do.
pub fn ticks(duration: Duration, rate: u32) -> u32 {
    let [_, _, _, _, ticks @ ..] = fraction(duration, rate.into()).to_be_bytes();
    u32::from_be_bytes(ticks)
}

/// A duration in units of which `per_second` make a second; wraps.
fn fraction(duration: Duration, per_second: u64) -> u64 {
    let nanos = duration.as_nanos().wrapping_mul(per_second.into()) / 1_000_000_000;
    u64::try_from(nanos & u128::from(u64::MAX)).unwrap_or(0)
}

/// The packets of a stream that did not arrive, and when to ask for them again (RFC 4585, generic NACK).
#[derive(Debug, Default)]
pub struct Gaps {
    highest: Option<u64>,
    /// In ascending order.
    missing: VecDeque<Missing>,
}

#[derive(Debug)]
struct Missing {
    sequence: u64,
    since: Instant,
    due: Instant,
}

impl Gaps {
    /// Takes note of a packet. `false` when so much is missing that only a key frame helps.
    pub fn handle_packet(&mut self, sequence: u64, now: Instant) -> bool {
        let Some(highest) = self.highest else {
            self.highest = Some(sequence);
            return true;
        };
        if sequence <= highest {
            if let Ok(position) = self
                .missing
                .binary_search_by_key(&sequence, |missing| missing.sequence)
            {
                self.missing.remove(position);
            }
            return true;
        }
        self.highest = Some(sequence);
        let first = highest.wrapping_add(1);
        let skipped = sequence.wrapping_sub(first);
        if skipped > MISSING {
            self.missing.clear();
            return false;
        }
        let due = now.checked_add(REORDERING).unwrap_or(now);
        self.missing
            .extend((first..sequence).map(|sequence| Missing {
                sequence,
                since: now,
                due,
            }));
        let room = usize::try_from(MISSING).unwrap_or(usize::MAX);
        let excess = self.missing.len().saturating_sub(room);
        self.missing.drain(..excess);
        true
    }

    /// The packets to ask for now, in ascending order. Each is asked for again until it is there or too late to be of use.
    pub fn poll_requests(&mut self, now: Instant) -> Vec<u16> {
        self.missing
            .retain(|missing| now.saturating_duration_since(missing.since) < TOO_LATE);
        let mut requests = Vec::new();
        for missing in self.missing.iter_mut().filter(|missing| missing.due <= now) {
            missing.due = now.checked_add(RETRY).unwrap_or(now);
            requests.push(rtp::truncate(missing.sequence));
        }
        requests
    }
}

/// When a publisher is asked for a key frame: for all who need one at once, and not too often.
#[derive(Debug, Default)]
pub struct KeyFrameRequests {
    wanted: bool,
    asked_at: Option<Instant>,
}

impl KeyFrameRequests {
    /// Somebody needs a key frame.
    pub fn request(&mut self) {
        self.wanted = true;
    }

    /// A key frame begins; whoever needed one has it.
    pub fn handle_key_frame(&mut self) {
        self.wanted = false;
    }

    /// Whether to ask the publisher now.
    pub fn poll(&mut self, now: Instant) -> bool {
        let early = self
            .asked_at
            .is_some_and(|at| now.saturating_duration_since(at) < KEY_FRAME_INTERVAL);
        if !self.wanted || early {
            return false;
        }
        self.wanted = false;
        self.asked_at = Some(now);
        true
    }
}

/// Where the latest packets of a track are, by sequence number: one memory for all subscribers.
pub struct Cache {
    handles: Vec<Option<Handle>>,
}

impl Cache {
    fn new(capacity: usize) -> Self {
        Self {
            handles: vec![None; capacity.max(1)],
        }
    }

    /// Remembers a packet.
    pub fn insert(&mut self, sequence: u64, handle: Handle) {
        let place = self.place(sequence);
        if let Some(place) = self.handles.get_mut(place) {
            *place = Some(handle);
        }
    }

    /// The packet with this number, unless it is gone from here or from the slab.
    pub fn find<'a>(&self, sequence: u64, slab: &'a Slab) -> Option<(Handle, &'a Packet)> {
        let handle = (*self.handles.get(self.place(sequence))?)?;
        let (packet, _) = slab.get(handle)?;
        (packet.sequence == sequence).then_some((handle, packet))
    }

    fn clear(&mut self) {
        self.handles.fill(None);
    }

    fn place(&self, sequence: u64) -> usize {
        let length = u64::try_from(self.handles.len()).unwrap_or(1);
        usize::try_from(sequence.checked_rem(length).unwrap_or(0)).unwrap_or(0)
    }
}

/// Packets a video track keeps for retransmission: over a second of 720p.
const VIDEO_CACHE: usize = 1_024;
/// Packets an audio track keeps: over two seconds.
const AUDIO_CACHE: usize = 128;
/// Packets that are asked for at a time. More in a row is an outage, which a key frame ends sooner.
const MISSING: u64 = 128;
/// How long a missing packet may be merely late.
const REORDERING: Duration = Duration::from_millis(10);
/// Until a packet is asked for again: a long round trip.
const RETRY: Duration = Duration::from_millis(100);
/// After this no decoder waits for a packet any more.
const TOO_LATE: Duration = Duration::from_millis(1_000);
/// Longest pause of a source that is on: silence and still screens are refreshed every second or faster.
const SILENCE: Duration = Duration::from_secs(5);
/// Key frames are large: asking faster only adds congestion.
const KEY_FRAME_INTERVAL: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sfu::slab;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_missing_packet_is_asked_for_until_it_comes() {
        let mut now = Instant::now();
        let mut gaps = Gaps::default();
        for sequence in [10, 11, 14] {
            assert!(gaps.handle_packet(sequence, now));
        }
        assert_eq!(
            gaps.poll_requests(now),
            [] as [u16; 0],
            "it may be merely late"
        );
        now += REORDERING;
        assert_eq!(gaps.poll_requests(now), [12, 13]);
        assert_eq!(gaps.poll_requests(now + MS), [] as [u16; 0]);
        gaps.handle_packet(12, now);
        now += RETRY;
        assert_eq!(gaps.poll_requests(now), [13]);
        assert_eq!(
            gaps.poll_requests(now + TOO_LATE),
            [] as [u16; 0],
            "nobody waits for it any more"
        );
    }

    #[test]
    fn a_reordered_packet_is_not_asked_for() {
        let now = Instant::now();
        let mut gaps = Gaps::default();
        for sequence in [65_534, 65_536, 65_535] {
            gaps.handle_packet(sequence, now);
        }
        assert_eq!(gaps.poll_requests(now + REORDERING), [] as [u16; 0]);
    }

    #[test]
    fn an_outage_is_not_asked_for_packet_by_packet() {
        let now = Instant::now();
        let mut gaps = Gaps::default();
        gaps.handle_packet(1, now);
        assert!(!gaps.handle_packet(1_000_000, now));
        assert_eq!(gaps.poll_requests(now + REORDERING), [] as [u16; 0]);
        let mut sequence = 1_000_000;
        for _ in 0..1_000 {
            sequence += 2;
            gaps.handle_packet(sequence, now);
        }
        assert_eq!(gaps.poll_requests(now + REORDERING).len() as u64, MISSING);
    }

    #[test]
    fn key_frame_requests_are_merged_and_limited() {
        let start = Instant::now();
        let mut requests = KeyFrameRequests::default();
        assert!(!requests.poll(start));
        requests.request();
        requests.request();
        assert!(requests.poll(start));
        assert!(!requests.poll(start));
        requests.request();
        assert!(!requests.poll(start + KEY_FRAME_INTERVAL - MS));
        assert!(
            requests.poll(start + KEY_FRAME_INTERVAL),
            "it was not forgotten"
        );
        requests.request();
        requests.handle_key_frame();
        assert!(
            !requests.poll(start + 4 * KEY_FRAME_INTERVAL),
            "the key frame came by itself"
        );
    }

    #[test]
    fn the_cache_finds_a_packet_until_it_is_overwritten() {
        let mut slab = Slab::new(16);
        let mut cache = Cache::new(4);
        let mut buffer = slab::buffer();
        for sequence in 65_534..65_540 {
            let packet = Packet {
                sequence,
                ..Packet::default()
            };
            cache.insert(sequence, slab.keep(&mut buffer, packet));
        }
        assert!(cache.find(65_535, &slab).is_none());
        for sequence in 65_536..65_540 {
            assert_eq!(cache.find(sequence, &slab).unwrap().1.sequence, sequence);
        }
        assert!(cache.find(65_540, &slab).is_none());
        for _ in 0..16 {
            slab.keep(&mut buffer, Packet::default());
        }
        assert!(
            cache.find(65_539, &slab).is_none(),
            "the slab has reused its place"
        );
    }

    #[test]
    fn a_report_says_what_was_lost_since_the_last() {
        let now = Instant::now();
        let mut reception = Reception::new(90_000);
        assert_eq!(reception.report(7, now), None);
        for sequence in [100, 101, 103, 104] {
            reception.handle_packet(sequence, 0, now);
        }
        let report = reception.report(7, now).unwrap();
        assert_eq!(
            (report.source, report.lost, report.fraction_lost),
            (7, 1, 51)
        );
        assert_eq!(report.highest, 104);
        reception.handle_packet(102, 0, now);
        reception.handle_packet(65_536 + 3, 0, now);
        let report = reception.report(7, now).unwrap();
        assert_eq!(report.highest, 0x1_0003);
    }

    #[test]
    fn jitter_follows_the_arrival_times() {
        let start = Instant::now();
        let mut even = Reception::new(48_000);
        let mut uneven = Reception::new(48_000);
        for n in 0..200u32 {
            even.handle_packet(n.into(), n * 960, start + 20 * n * MS);
            uneven.handle_packet(n.into(), n * 960, start + 20 * n * MS + 10 * (n % 2) * MS);
        }
        assert_eq!(even.report(1, start).unwrap().jitter, 0);
        let jitter = uneven.report(1, start).unwrap().jitter;
        assert!(
            (440..=490).contains(&jitter),
            "about 10 ms at 48 kHz, not {jitter}"
        );
    }

    #[test]
    fn a_sender_report_ties_media_time_to_the_clock() {
        let start = Instant::now();
        let mut reception = Reception::new(90_000);
        reception.handle_packet(1, 0, start);
        reception.handle_sender_report(0x0000_0005_8000_0000, u32::MAX, start);
        let later = start + 1_500 * MS;
        assert_eq!(
            reception.clock().unwrap().at(later),
            (0x0000_0007_0000_0000, 134_999)
        );
        let report = reception.report(1, later).unwrap();
        assert_eq!(report.last_sender_report, 0x0005_8000);
        assert_eq!(report.delay, 98_304);
    }
}
