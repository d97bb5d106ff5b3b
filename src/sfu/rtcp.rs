//! RTCP (RFC 3550) and its feedback messages (RFC 4585, RFC 5104), reading and writing what we use of them.

const SENDER_REPORT: u8 = 200;
const RECEIVER_REPORT: u8 = 201;
const DESCRIPTION: u8 = 202;
const GOODBYE: u8 = 203;
const TRANSPORT_FEEDBACK: u8 = 205;
const PAYLOAD_FEEDBACK: u8 = 206;
const NACK: u8 = 1;
const PLI: u8 = 1;
const FIR: u8 = 4;
const CNAME: u8 = 1;

/// Bytes of one report block.
const REPORT: usize = 24;
/// Report blocks and goodbyes of one packet: their count has five bits.
const COUNT: usize = 31;

/// Whether a datagram whose first byte says RTP or RTCP is RTCP (RFC 5761, section 4).
pub fn is_rtcp(datagram: &[u8]) -> bool {
    datagram
        .get(1)
        .is_some_and(|kind| (192..=223).contains(kind))
}

/// One thing that a control packet says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// How a stream's media time relates to its sender's clock.
    SenderReport {
        /// The stream.
        source: u32,
        /// The sender's clock, as a 32.32 bit number of seconds.
        ntp: u64,
        /// The media time at that moment.
        timestamp: u32,
    },
    /// How a stream arrived.
    Report(Report),
    /// Packets that did not arrive and are asked for again (generic NACK).
    Nack {
        /// The stream they belong to.
        source: u32,
        /// Which packets.
        lost: Lost<'a>,
    },
    /// A decoder needs a key frame of this stream (PLI, or FIR, which we take as the same).
    KeyFrameRequest {
        /// The stream.
        source: u32,
    },
    /// This stream has ended.
    Goodbye {
        /// The stream.
        source: u32,
    },
}

/// A reception report block (RFC 3550, section 6.4.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The stream it is about.
    pub source: u32,
    /// Share of packets lost since the last report, in 1/256.
    pub fraction_lost: u8,
    /// Packets lost since the beginning, 24 bits.
    pub lost: u32,
    /// Highest sequence number received, with the number of wraps above it.
    pub highest: u32,
    /// Variation of the arrival times, in units of the codec's clock.
    pub jitter: u32,
    /// The middle 32 bits of the last sender report's clock; 0 when there was none.
    pub last_sender_report: u32,
    /// Time since that report, in 1/65,536 s.
    pub delay: u32,
}

/// The messages of a decrypted control packet. Whatever is malformed or unknown ends or is left out.
pub fn messages(packet: &[u8]) -> impl Iterator<Item = Message<'_>> {
    packets(packet).flat_map(|(kind, count, body)| {
        let source = word(body, 0);
        let (reports, sender) = match kind {
            SENDER_REPORT => (body.get(24..), sender_report(body)),
            RECEIVER_REPORT => (body.get(4..), None),
            _ => (None, None),
        };
        let reports = reports
            .unwrap_or_default()
            .chunks_exact(REPORT)
            .take(count.into());
        let (goodbyes, nack, key_frames): (&[u8], _, &[u8]) = match (kind, count) {
            (GOODBYE, _) => (body, None, &[]),
            (TRANSPORT_FEEDBACK, NACK) => (&[], word(body, 4), &[]),
            (PAYLOAD_FEEDBACK, PLI) => (&[], None, body.get(4..8).unwrap_or_default()),
            (PAYLOAD_FEEDBACK, FIR) => (&[], None, body.get(8..).unwrap_or_default()),
            _ => (&[], None, &[]),
        };
        let step = if count == FIR { 8 } else { 4 };
        let lost = Lost(body.get(8..).unwrap_or_default());
        source
            .and(sender)
            .into_iter()
            .chain(reports.filter_map(report).map(Message::Report))
            .chain(nack.map(|source| Message::Nack { source, lost }))
            .chain(key_frames.chunks_exact(step).filter_map(|entry| {
                word(entry, 0).map(|source| Message::KeyFrameRequest { source })
            }))
            .chain(
                goodbyes
                    .chunks_exact(4)
                    .take(count.into())
                    .filter_map(|entry| word(entry, 0).map(|source| Message::Goodbye { source })),
            )
    })
}

/// The packets of a compound: kind, count or format, and body.
fn packets(mut rest: &[u8]) -> impl Iterator<Item = (u8, u8, &[u8])> {
    std::iter::from_fn(move || {
        let [flags, kind, l0, l1] = *rest.first_chunk()?;
        let length = usize::from(u16::from_be_bytes([l0, l1])).checked_mul(4)?;
        let (body, next) = rest.get(4..)?.split_at_checked(length)?;
        rest = next;
        (flags >> 6 == 2).then_some((kind, flags & 0x1f, body))
    })
}

fn sender_report(body: &[u8]) -> Option<Message<'_>> {
    Some(Message::SenderReport {
        source: word(body, 0)?,
        ntp: u64::from_be_bytes(*body.get(4..)?.first_chunk()?),
        timestamp: word(body, 12)?,
    })
}

fn report(block: &[u8]) -> Option<Report> {
    let loss = word(block, 4)?;
    let [fraction_lost, ..] = loss.to_be_bytes();
    Some(Report {
        source: word(block, 0)?,
        fraction_lost,
        lost: loss & 0x00ff_ffff,
        highest: word(block, 8)?,
        jitter: word(block, 12)?,
        last_sender_report: word(block, 16)?,
        delay: word(block, 20)?,
    })
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// The packets a NACK names: a number and a mask of the 16 that follow it, repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost<'a>(&'a [u8]);

impl Lost<'_> {
    /// Their sequence numbers.
    pub fn sequences(&self) -> impl Iterator<Item = u16> {
        self.0.chunks_exact(4).flat_map(|pair| {
            let [f0, f1, m0, m1] = word(pair, 0).unwrap_or_default().to_be_bytes();
            let (first, mask) = (u16::from_be_bytes([f0, f1]), u16::from_be_bytes([m0, m1]));
            let following = (1..=16u16)
                .filter(move |ahead| mask & bit(*ahead) != 0)
                .map(move |ahead| first.wrapping_add(ahead));
            std::iter::once(first).chain(following)
        })
    }
}

/// The bit of a NACK's mask for the packet so many numbers ahead of the first, 1 to 16.
fn bit(ahead: u16) -> u16 {
    1u16.wrapping_shl(u32::from(ahead.wrapping_sub(1)))
}

/// A control packet being written.
#[derive(Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// An empty packet.
    pub fn new() -> Self {
        Self::default()
    }

    /// What we send as `source`, for lip sync and for the receiver's reports.
    pub fn sender_report(
        &mut self,
        source: u32,
        ntp: u64,
        timestamp: u32,
        packets: u32,
        octets: u32,
    ) -> &mut Self {
        let start = self.start(SENDER_REPORT, 0);
        self.words(&[source]);
        self.bytes.extend_from_slice(&ntp.to_be_bytes());
        self.words(&[timestamp, packets, octets]);
        self.end(start)
    }

    /// How streams arrived, at most 31 of them, reported by `reporter`.
    pub fn receiver_report(&mut self, reporter: u32, reports: &[Report]) -> &mut Self {
        let reports = reports.get(..COUNT).unwrap_or(reports);
        let start = self.start(RECEIVER_REPORT, u8::try_from(reports.len()).unwrap_or(0));
        self.words(&[reporter]);
        for report in reports {
            let [_, loss @ ..] = report.lost.to_be_bytes();
            self.words(&[report.source]);
            self.bytes.push(report.fraction_lost);
            self.bytes.extend_from_slice(&loss);
            self.words(&[
                report.highest,
                report.jitter,
                report.last_sender_report,
                report.delay,
            ]);
        }
        self.end(start)
    }

    /// The name that ties streams of one sender together (SDES CNAME); at most 255 bytes.
    pub fn name(&mut self, source: u32, name: &str) -> &mut Self {
        let start = self.start(DESCRIPTION, 1);
        self.words(&[source]);
        let name = name.as_bytes();
        self.bytes
            .extend_from_slice(&[CNAME, u8::try_from(name.len()).unwrap_or(0)]);
        self.bytes.extend_from_slice(name);
        self.bytes.push(0); // ends the items; zeros fill the last word
        self.end(start)
    }

    /// Asks for a key frame of `source` (PLI).
    pub fn key_frame_request(&mut self, reporter: u32, source: u32) -> &mut Self {
        let start = self.start(PAYLOAD_FEEDBACK, PLI);
        self.words(&[reporter, source]);
        self.end(start)
    }

    /// Asks for packets of `source` again (generic NACK). `lost` is in ascending order.
    pub fn nack(
        &mut self,
        reporter: u32,
        source: u32,
        lost: impl IntoIterator<Item = u16>,
    ) -> &mut Self {
        let start = self.start(TRANSPORT_FEEDBACK, NACK);
        self.words(&[reporter, source]);
        let mut pair: Option<(u16, u16)> = None;
        for sequence in lost {
            pair = Some(match pair {
                None => (sequence, 0),
                Some((first, mask)) => match sequence.wrapping_sub(first) {
                    0 => (first, mask),
                    ahead @ 1..=16 => (first, mask | bit(ahead)),
                    _ => {
                        self.words(&[u32::from(first) << 16 | u32::from(mask)]);
                        (sequence, 0)
                    }
                },
            });
        }
        if let Some((first, mask)) = pair {
            self.words(&[u32::from(first) << 16 | u32::from(mask)]);
        }
        self.end(start)
    }

    /// Says that a stream has ended.
    pub fn goodbye(&mut self, source: u32) -> &mut Self {
        let start = self.start(GOODBYE, 1);
        self.words(&[source]);
        self.end(start)
    }

    /// The packet, not yet sealed.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn words(&mut self, words: &[u32]) {
        self.bytes
            .extend(words.iter().flat_map(|word| word.to_be_bytes()));
    }

    /// Begins a packet of a compound; the length is filled in by [`end`](Self::end).
    fn start(&mut self, kind: u8, count: u8) -> usize {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0x80 | count, kind, 0, 0]);
        start
    }

    fn end(&mut self, start: usize) -> &mut Self {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        let words = self.bytes.len().wrapping_sub(start).wrapping_sub(4) / 4;
        if let Some(field) = self
            .bytes
            .get_mut(start..)
            .and_then(|packet| packet.get_mut(2..4))
        {
            field.copy_from_slice(&u16::try_from(words).unwrap_or(u16::MAX).to_be_bytes());
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rtc_rtcp::packet::unmarshal;

    use super::*;

    fn read(bytes: &[u8]) -> Vec<Message<'_>> {
        messages(bytes).collect()
    }

    /// Everything we write, in one compound.
    fn everything() -> Writer {
        let mut writer = Writer::new();
        writer
            .sender_report(1, 2 << 32, 3, 4, 5)
            .receiver_report(6, &[REPORT])
            .name(6, "plenum")
            .key_frame_request(6, 7)
            .nack(6, 8, [65_534, 65_535, 0, 14, 15, 40]);
        writer.goodbye(9);
        writer
    }

    const REPORT: Report = Report {
        source: 1,
        fraction_lost: 2,
        lost: 3,
        highest: 4,
        jitter: 5,
        last_sender_report: 6,
        delay: 7,
    };

    #[test]
    fn what_is_written_is_read() {
        let writer = everything();
        let read = read(writer.bytes());
        let [
            sender,
            report,
            key_frame,
            Message::Nack { source: 8, lost },
            goodbye,
        ] = read[..]
        else {
            panic!("{read:?}");
        };
        assert_eq!(
            sender,
            Message::SenderReport {
                source: 1,
                ntp: 2 << 32,
                timestamp: 3
            }
        );
        assert_eq!(report, Message::Report(REPORT));
        assert_eq!(key_frame, Message::KeyFrameRequest { source: 7 });
        assert_eq!(
            lost.sequences().collect::<Vec<_>>(),
            [65_534, 65_535, 0, 14, 15, 40]
        );
        assert_eq!(goodbye, Message::Goodbye { source: 9 });
    }

    #[test]
    fn an_independent_codec_reads_what_we_write() {
        let writer = everything();
        let mut bytes = writer.bytes();
        let packets = unmarshal(&mut bytes).unwrap();
        let names: Vec<String> = packets.iter().map(|packet| format!("{packet:?}")).collect();
        assert_eq!(names.len(), 6);
        for (name, kind) in names.iter().zip([
            "SenderReport",
            "ReceiverReport",
            "SourceDescription",
            "PictureLoss",
            "TransportLayerNack",
            "Goodbye",
        ]) {
            assert!(name.starts_with(kind), "{name}");
        }
    }

    #[test]
    fn a_full_intra_request_is_a_key_frame_request() {
        let bytes = [
            0x84, 206, 0, 4, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 7, 3, 0, 0, 0,
        ];
        assert_eq!(read(&bytes), [Message::KeyFrameRequest { source: 7 }]);
    }

    #[test]
    fn a_cut_compound_says_what_came_before_the_cut() {
        let writer = everything();
        let bytes = writer.bytes();
        assert_eq!(read(&bytes[..bytes.len() - 1]).len(), 4);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for message in messages(&bytes) {
                if let Message::Nack { lost, .. } = message {
                    prop_assert!(lost.sequences().count() <= 17 * bytes.len());
                }
            }
        }

        #[test]
        fn packets_of_any_kind_are_read_without_panic(
            kind in 192..=223u8, count in 0..=31u8, body in proptest::collection::vec(any::<u8>(), 0..30),
        ) {
            let mut bytes = vec![0x80 | count, kind, 0, 0];
            bytes.extend(body.iter().flat_map(|byte| [*byte; 4]));
            bytes[3] = u8::try_from(body.len()).unwrap();
            messages(&bytes).for_each(drop);
        }

        #[test]
        fn a_nack_names_the_packets_it_was_given(start: u16, steps in proptest::collection::vec(1..40u16, 0..50)) {
            let mut sequence = start;
            let lost: Vec<u16> = steps.iter().map(|step| { sequence = sequence.wrapping_add(*step); sequence }).collect();
            let mut writer = Writer::new();
            writer.nack(1, 2, lost.iter().copied());
            let read: Vec<u16> = messages(writer.bytes())
                .flat_map(|message| match message {
                    Message::Nack { lost, .. } => lost.sequences().collect::<Vec<_>>(),
                    other => panic!("{other:?}"),
                })
                .collect();
            prop_assert_eq!(read, lost);
        }
    }
}
