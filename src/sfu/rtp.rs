//! RTP headers (RFC 3550) and their extensions (RFC 8285): read from a stranger's packet, written for a subscriber's.

/// Bytes of a header without contributing sources and extensions.
const FIXED: usize = 12;
/// The profile that marks extensions with one-byte headers.
const ONE_BYTE: u16 = 0xbede;
/// The profile that marks extensions with two-byte headers, of which the last four bits are free.
const TWO_BYTES: u16 = 0x1000;

/// What a header says. Only the payload of an SRTP packet is encrypted, so it can be read before the packet is opened; it
/// may be believed only after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The codec, by the number that was negotiated for it.
    pub payload_type: u8,
    /// The marker bit: for video the last packet of a frame, for audio the first after a silence.
    pub marker: bool,
    /// Whether the payload ends in padding.
    pub padding: bool,
    /// Counts packets, and wraps.
    pub sequence: u16,
    /// Media time in units of the codec's clock, from a random start; wraps.
    pub timestamp: u32,
    /// The stream this packet belongs to (SSRC).
    pub source: u32,
    /// Bytes of the header with everything that follows the fixed part.
    pub length: usize,
    /// Where the extensions begin, their length in bytes, and whether their headers take one byte or two.
    extensions: Option<(usize, usize, ExtensionForm)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ExtensionForm {
    OneByte,
    TwoBytes,
}

impl Header {
    /// Reads the header of a packet; `None` when it is none.
    pub fn parse(packet: &[u8]) -> Option<Self> {
        let [flags, kind, s0, s1, t0, t1, t2, t3, i0, i1, i2, i3] =
            *packet.first_chunk::<FIXED>()?;
        if flags >> 6 != 2 {
            return None;
        }
        let sources = usize::from(flags & 0x0f);
        let mut length = FIXED.checked_add(sources.checked_mul(4)?)?;
        let mut extensions = None;
        if flags & 0x10 != 0 {
            let word = *packet.get(length..)?.first_chunk::<4>()?;
            let [p0, p1, w0, w1] = word;
            let bytes = usize::from(u16::from_be_bytes([w0, w1])).checked_mul(4)?;
            let start = length.checked_add(4)?;
            length = start.checked_add(bytes)?;
            extensions = match u16::from_be_bytes([p0, p1]) {
                ONE_BYTE => Some((start, bytes, ExtensionForm::OneByte)),
                profile if profile & 0xfff0 == TWO_BYTES => {
                    Some((start, bytes, ExtensionForm::TwoBytes))
                }
                _ => None,
            };
        }
        (length <= packet.len()).then_some(Self {
            payload_type: kind & 0x7f,
            marker: kind & 0x80 != 0,
            padding: flags & 0x20 != 0,
            sequence: u16::from_be_bytes([s0, s1]),
            timestamp: u32::from_be_bytes([t0, t1, t2, t3]),
            source: u32::from_be_bytes([i0, i1, i2, i3]),
            length,
            extensions,
        })
    }

    /// The value of the extension with this number in `packet`, which is the packet that was parsed.
    pub fn extension<'a>(&self, packet: &'a [u8], wanted: u8) -> Option<&'a [u8]> {
        let (start, length, form) = self.extensions?;
        let mut rest = packet.get(start..)?.get(..length)?;
        while let Some((&first, after)) = rest.split_first() {
            if first == 0 {
                rest = after; // padding between extensions
                continue;
            }
            let (id, size, body) = match form {
                ExtensionForm::OneByte if first >> 4 == 15 => return None, // "stop here" (RFC 8285, section 4.2)
                ExtensionForm::OneByte => {
                    (first >> 4, usize::from(first & 0x0f).checked_add(1)?, after)
                }
                ExtensionForm::TwoBytes => {
                    let (&size, body) = after.split_first()?;
                    (first, usize::from(size), body)
                }
            };
            let (value, after) = body.split_at_checked(size)?;
            if id == wanted {
                return Some(value);
            }
            rest = after;
        }
        None
    }
}

/// The length of a payload without its padding; `None` when the padding claims more than there is.
pub fn unpadded(payload: &[u8], padding: bool) -> Option<usize> {
    if !padding {
        return Some(payload.len());
    }
    let count = usize::from(*payload.last()?);
    if count == 0 {
        None
    } else {
        payload.len().checked_sub(count)
    }
}

/// What differs from packet to packet of a stream we send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// The number of the codec in the subscriber's connection.
    pub payload_type: u8,
    /// See [`Header::marker`].
    pub marker: bool,
    /// See [`Header::sequence`].
    pub sequence: u16,
    /// See [`Header::timestamp`].
    pub timestamp: u32,
    /// See [`Header::source`].
    pub source: u32,
    /// One extension of one byte: its number in the subscriber's connection (1 to 14), and its value.
    pub extension: Option<(u8, u8)>,
}

impl Outgoing {
    /// Writes the header to the start of `buffer` and returns its length; `None` when there is no room.
    pub fn write(&self, buffer: &mut [u8]) -> Option<usize> {
        let marker = if self.marker { 0x80 } else { 0 };
        let [s0, s1] = self.sequence.to_be_bytes();
        let [t0, t1, t2, t3] = self.timestamp.to_be_bytes();
        let [i0, i1, i2, i3] = self.source.to_be_bytes();
        let flags = if self.extension.is_some() { 0x90 } else { 0x80 };
        *buffer.first_chunk_mut::<FIXED>()? = [
            flags,
            marker | self.payload_type,
            s0,
            s1,
            t0,
            t1,
            t2,
            t3,
            i0,
            i1,
            i2,
            i3,
        ];
        let Some((id, value)) = self.extension else {
            return Some(FIXED);
        };
        let [p0, p1] = ONE_BYTE.to_be_bytes();
        *buffer.get_mut(FIXED..)?.first_chunk_mut::<8>()? = [p0, p1, 0, 1, id << 4, value, 0, 0];
        Some(FIXED + 8)
    }
}

/// The extended sequence number nearest to `highest` whose lower 16 bits are `sequence`; never below zero.
pub fn extend(highest: u64, sequence: u16) -> u64 {
    let [.., h0, h1] = highest.to_be_bytes();
    let ahead = sequence.wrapping_sub(u16::from_be_bytes([h0, h1]));
    if ahead < 0x8000 {
        return highest.wrapping_add(ahead.into());
    }
    let behind = u64::from(ahead.wrapping_neg());
    // Nothing is older than number zero: what seems to be is the start of the next round.
    highest
        .checked_sub(behind)
        .unwrap_or_else(|| highest.wrapping_add(ahead.into()))
}

/// The lower 16 bits of an extended sequence number, as a packet carries them.
pub fn truncate(extended: u64) -> u16 {
    let [.., s0, s1] = extended.to_be_bytes();
    u16::from_be_bytes([s0, s1])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PACKET: Outgoing = Outgoing {
        payload_type: 96,
        marker: true,
        sequence: 0xfffe,
        timestamp: 0x0102_0304,
        source: 0xdead_beef,
        extension: Some((3, 0x85)),
    };

    #[test]
    fn what_is_written_is_read() {
        for extension in [None, PACKET.extension] {
            let mut buffer = [0; 40];
            let length = Outgoing {
                extension,
                ..PACKET
            }
            .write(&mut buffer)
            .unwrap();
            let header = Header::parse(&buffer).unwrap();
            assert_eq!(header.length, length);
            assert_eq!(
                (header.payload_type, header.marker, header.padding),
                (96, true, false)
            );
            assert_eq!(
                (header.sequence, header.timestamp, header.source),
                (0xfffe, 0x0102_0304, 0xdead_beef)
            );
            assert_eq!(
                header.extension(&buffer, 3),
                extension.is_some().then_some(&[0x85][..])
            );
            assert_eq!(header.extension(&buffer, 4), None);
        }
    }

    #[test]
    fn extensions_of_both_forms_are_found_behind_others() {
        let fixed = [0x90, 96, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1];
        let one = [
            &fixed[..],
            &[0xbe, 0xde, 0, 2, 0x10, 7, 0, 0x21, 8, 9, 0, 0],
        ]
        .concat();
        let two = [&fixed[..], &[0x10, 0x00, 0, 2, 1, 0, 0, 2, 2, 8, 9, 0]].concat();
        for packet in [one, two] {
            let header = Header::parse(&packet).unwrap();
            assert_eq!(header.length, packet.len());
            assert_eq!(header.extension(&packet, 2), Some(&[8, 9][..]));
        }
    }

    #[test]
    fn padding_never_takes_more_than_the_payload() {
        assert_eq!(unpadded(&[1, 2, 3], false), Some(3));
        assert_eq!(unpadded(&[1, 2, 2], true), Some(1));
        assert_eq!(unpadded(&[0, 0, 3], true), Some(0));
        assert_eq!(unpadded(&[0, 0, 4], true), None);
        assert_eq!(unpadded(&[0, 0, 0], true), None);
        assert_eq!(unpadded(&[], true), None);
    }

    #[test]
    fn sequence_numbers_wrap_forwards_and_backwards() {
        assert_eq!(extend(65_535, 0), 65_536);
        assert_eq!(extend(65_536, 65_535), 65_535);
        assert_eq!(extend(3 << 16, 0xffff), (3 << 16) - 1);
        assert_eq!(extend(5, 65_535), 65_535, "there is nothing below zero");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80), id: u8) {
            if let Some(header) = Header::parse(&bytes) {
                prop_assert!(header.length <= bytes.len());
                header.extension(&bytes, id);
                let payload = &bytes[header.length..];
                prop_assert!(unpadded(payload, header.padding).is_none_or(|length| length <= payload.len()));
            }
        }

        #[test]
        fn extending_keeps_the_lower_bits_and_stays_near(highest in 0x1_0000..u64::MAX >> 1, sequence: u16) {
            let extended = extend(highest, sequence);
            prop_assert_eq!(truncate(extended), sequence);
            prop_assert!(extended.abs_diff(highest) <= 0x8000);
        }
    }
}
