//! One receive position of a subscriber: a stream of ours that carries one track after another.
//!
//! Its SSRC never changes, because browsers tie what they render to it. So sequence numbers and timestamps are rewritten: to
//! the subscriber it is a single sender that paused.

use std::time::Instant;

use super::{
    peer::TrackId,
    rtp,
    sdp::Media,
    slab::Packet,
    track::{Clock, ticks},
};

/// A slot of a subscriber.
pub struct Slot {
    /// The m-line it is sent on.
    pub mid: String,
    /// What was negotiated for it.
    pub media: Media,
    /// Our stream (SSRC).
    pub stream: u32,
    /// Whether the m-line still is a slot.
    pub open: bool,
    /// The track it shows.
    pub track: Option<TrackId>,
    /// How packets of that track become ours.
    pub rewriter: Rewriter,
}

/// A packet as the subscriber gets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rewritten {
    /// Our extended sequence number.
    pub sequence: u64,
    /// Our timestamp.
    pub timestamp: u32,
}

/// Makes one stream of the packets of several tracks.
pub struct Rewriter {
    clock_rate: u32,
    /// Number of the next packet in order.
    next: u64,
    /// The track's numbering, from its first packet that was sent.
    mapping: Option<Mapping>,
    last: Option<(u32, Instant)>,
    packets: u32,
    octets: u32,
}

/// How numbers of a track become ours; all differences wrap.
#[derive(Clone, Copy)]
struct Mapping {
    first: u64,
    sequence: u64,
    timestamp: u32,
}

impl Rewriter {
    /// A stream that begins at number `first`. It is below 2^15, so that a receiver that misses the first packets cannot
    /// miscount the wraps (RFC 3711, section 3.3.1).
    pub fn new(clock_rate: u32, first: u16) -> Self {
        Self {
            clock_rate,
            next: u64::from(first & 0x7fff),
            mapping: None,
            last: None,
            packets: 0,
            octets: 0,
        }
    }

    /// Another track follows, or the same one under other terms. Nothing sent before is sent again: the same number under
    /// other terms would be another packet, which one key must never seal.
    pub fn restart(&mut self) {
        self.mapping = None;
    }

    /// Whether the track has not begun yet.
    pub fn is_waiting(&self) -> bool {
        self.mapping.is_none()
    }

    /// Takes a packet of the track; `None` when it is not to be sent. `begins` says whether a decoder can start with it.
    pub fn handle_packet(
        &mut self,
        packet: &Packet,
        begins: bool,
        now: Instant,
    ) -> Option<Rewritten> {
        let mapping = match self.mapping {
            Some(mapping) => mapping,
            None if begins => *self.mapping.insert(Mapping {
                first: packet.sequence,
                sequence: self.next.wrapping_sub(packet.sequence),
                timestamp: self
                    .timestamp_at(packet, now)
                    .wrapping_sub(packet.timestamp),
            }),
            None => return None,
        };
        if packet.sequence < mapping.first {
            return None;
        }
        let rewritten = mapping.rewrite(packet);
        if rewritten.sequence >= self.next {
            self.next = rewritten.sequence.wrapping_add(1);
            self.last = Some((rewritten.timestamp, now));
        }
        self.packets = self.packets.wrapping_add(1);
        self.octets = self.octets.wrapping_add(packet.payload_length.into());
        Some(rewritten)
    }

    /// The timestamp of a track's first packet: as much after the last one as time has passed.
    fn timestamp_at(&self, packet: &Packet, now: Instant) -> u32 {
        self.last.map_or(packet.timestamp, |(timestamp, at)| {
            let passed = ticks(now.saturating_duration_since(at), self.clock_rate);
            timestamp.wrapping_add(passed.max(1))
        })
    }

    /// The track's number of a packet that was sent under this number, if it was sent under the terms of today.
    pub fn source_of(&self, sequence: u16) -> Option<u64> {
        let mapping = self.mapping?;
        let sent = rtp::extend(self.next.checked_sub(1)?, sequence);
        let source = sent.wrapping_sub(mapping.sequence);
        (sent < self.next && source >= mapping.first).then_some(source)
    }

    /// A packet that [was sent](Self::source_of), as it was sent.
    pub fn rewrite_again(&self, packet: &Packet) -> Option<Rewritten> {
        self.mapping.map(|mapping| mapping.rewrite(packet))
    }

    /// What a sender report says at `now`: the publisher's clock, our timestamp, packets and octets sent.
    pub fn sender_report(&self, clock: &Clock, now: Instant) -> Option<(u64, u32, u32, u32)> {
        let mapping = self.mapping?;
        let (ntp, timestamp) = clock.at(now);
        Some((
            ntp,
            timestamp.wrapping_add(mapping.timestamp),
            self.packets,
            self.octets,
        ))
    }
}

impl Mapping {
    fn rewrite(&self, packet: &Packet) -> Rewritten {
        Rewritten {
            sequence: packet.sequence.wrapping_add(self.sequence),
            timestamp: packet.timestamp.wrapping_add(self.timestamp),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn packet(sequence: u64, timestamp: u32) -> Packet {
        Packet {
            sequence,
            timestamp,
            ..Packet::default()
        }
    }

    #[test]
    fn video_begins_where_a_decoder_can() {
        let now = Instant::now();
        let mut rewriter = Rewriter::new(90_000, 100);
        assert_eq!(rewriter.handle_packet(&packet(7, 0), false, now), None);
        let first = rewriter
            .handle_packet(&packet(8, 3_000), true, now)
            .unwrap();
        assert_eq!(
            first,
            Rewritten {
                sequence: 100,
                timestamp: 3_000
            }
        );
        assert_eq!(
            rewriter.handle_packet(&packet(7, 0), false, now),
            None,
            "it is from before"
        );
        assert_eq!(
            rewriter
                .handle_packet(&packet(10, 6_000), false, now)
                .unwrap()
                .sequence,
            102
        );
        assert_eq!(
            rewriter
                .handle_packet(&packet(9, 3_000), false, now)
                .unwrap()
                .sequence,
            101,
            "a late packet keeps its place"
        );
    }

    #[test]
    fn another_track_goes_on_where_the_last_one_stopped() {
        let start = Instant::now();
        let mut rewriter = Rewriter::new(90_000, 0);
        rewriter.handle_packet(&packet(65_535, 1_000), true, start);
        rewriter.handle_packet(&packet(65_536, 4_000), false, start);
        rewriter.restart();
        let later = start + Duration::from_millis(100);
        assert_eq!(rewriter.handle_packet(&packet(40, 77), false, later), None);
        let next = rewriter
            .handle_packet(&packet(50, 88), true, later)
            .unwrap();
        assert_eq!(
            next,
            Rewritten {
                sequence: 2,
                timestamp: 13_000
            }
        );
    }

    #[test]
    fn a_sender_report_speaks_of_our_media_time() {
        let start = Instant::now();
        let mut rewriter = Rewriter::new(90_000, 0);
        let clock = Clock::new(7 << 32, 1_000, start, 90_000);
        assert_eq!(
            rewriter.sender_report(&clock, start),
            None,
            "nothing was sent"
        );
        rewriter.handle_packet(&packet(1, 50_000), true, start);
        rewriter.restart();
        rewriter.handle_packet(&packet(1, 1_000), true, start + Duration::from_millis(10));
        let (ntp, timestamp, packets, _) = rewriter.sender_report(&clock, start).unwrap();
        assert_eq!((ntp, timestamp, packets), (7 << 32, 50_900, 2));
    }

    #[test]
    fn only_what_was_sent_under_the_same_terms_is_sent_again() {
        let now = Instant::now();
        let mut rewriter = Rewriter::new(90_000, 10);
        assert_eq!(rewriter.source_of(10), None);
        for sequence in 500..503 {
            rewriter.handle_packet(&packet(sequence, 0), true, now);
        }
        assert_eq!(
            (9..14).map(|n| rewriter.source_of(n)).collect::<Vec<_>>(),
            [None, Some(500), Some(501), Some(502), None]
        );
        assert_eq!(
            rewriter.rewrite_again(&packet(501, 0)).unwrap().sequence,
            11
        );
        rewriter.restart();
        rewriter.handle_packet(&packet(900, 0), true, now);
        assert_eq!(
            rewriter.source_of(12),
            None,
            "it belongs to the track before"
        );
        assert_eq!(rewriter.source_of(13), Some(900));
    }

    #[test]
    fn numbers_go_on_past_sixteen_bits() {
        let now = Instant::now();
        let mut rewriter = Rewriter::new(48_000, 0x7fff);
        let mut last = 0;
        for sequence in 0..70_000 {
            last = rewriter
                .handle_packet(&packet(sequence, 0), true, now)
                .unwrap()
                .sequence;
        }
        assert_eq!(last, 0x7fff + 69_999);
        assert_eq!(rewriter.source_of(rtp::truncate(last)), Some(69_999));
    }
}
