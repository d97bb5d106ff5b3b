//! What forwarding must know of VP8 (RFC 6386) in RTP (RFC 7741): where a key frame begins.

/// Whether a payload begins a key frame, from which a decoder can start.
pub fn begins_key_frame(payload: &[u8]) -> bool {
    frame_start(payload).is_some_and(|frame| frame & 1 == 0)
}

/// The first byte of the frame, when the payload holds the start of one.
fn frame_start(payload: &[u8]) -> Option<u8> {
    let (&descriptor, mut rest) = payload.split_first()?;
    let (extended, start, partition) = (
        descriptor & 0x80 != 0,
        descriptor & 0x10 != 0,
        descriptor & 0x07,
    );
    if extended {
        let (&has, after) = rest.split_first()?;
        rest = after;
        if has & 0x80 != 0 {
            // A picture id has one byte, or two when its first bit is set.
            let wide = rest.first()? & 0x80 != 0;
            rest = rest.get(if wide { 2 } else { 1 }..)?;
        }
        if has & 0x40 != 0 {
            rest = rest.get(1..)?; // TL0PICIDX
        }
        if has & 0x30 != 0 {
            rest = rest.get(1..)?; // TID and KEYIDX
        }
    }
    if start && partition == 0 {
        rest.first().copied()
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_first_packet_of_a_key_frame_is_recognised() {
        for (payload, key) in [
            (&[0x10, 0x50, 0x01][..], true),                     // no extension
            (&[0x10, 0x51, 0x01], false),                        // an inter frame
            (&[0x00, 0x50], false),                              // not the start of a partition
            (&[0x11, 0x50], false),                              // not the first partition
            (&[0x90, 0x80, 0x05, 0x50], true),                   // 7-bit picture id
            (&[0x90, 0x80, 0x81, 0x05, 0x50], true),             // 15-bit picture id
            (&[0x90, 0xe0, 0x81, 0x05, 0x07, 0x20, 0x50], true), // with TL0PICIDX and TID
            (&[0x90, 0xe0, 0x81, 0x05, 0x07, 0x20, 0x51], false),
            (&[0x90, 0xe0, 0x81, 0x05, 0x07], false), // cut short
            (&[0x10], false),
            (&[], false),
        ] {
            assert_eq!(begins_key_frame(payload), key, "{payload:x?}");
        }
    }

    proptest! {
        #[test]
        fn any_payload_is_read_without_panic(payload in proptest::collection::vec(any::<u8>(), 0..12)) {
            begins_key_frame(&payload);
        }
    }
}
