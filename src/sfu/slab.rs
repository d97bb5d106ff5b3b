//! Where a worker's packets live: a fixed number of places, filled in turn and addressed by index.
//!
//! A received datagram is opened in the buffer it arrived in, and that buffer is then exchanged for the oldest place of the
//! slab, so keeping a packet copies nothing and, once the slab has grown to its size, allocates nothing. A packet stays
//! readable, for forwarding and for retransmission, until its place is reused.

/// Largest datagram that is received or sent, in bytes: above what fits Ethernet, below two of its frames.
pub const DATAGRAM: usize = 1_536;

/// The bytes of one datagram.
pub type Buffer = Box<[u8; DATAGRAM]>;

/// A new, zeroed buffer.
pub fn buffer() -> Buffer {
    Box::new([0; DATAGRAM])
}

/// One RTP packet of a track, decrypted, with what forwarding needs of its header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packet {
    /// Sequence number, extended by the number of times it wrapped.
    pub sequence: u64,
    /// Media timestamp, in units of the codec's clock.
    pub timestamp: u32,
    /// The marker bit: for video the last packet of a frame.
    pub marker: bool,
    /// Audio level extension as it came (RFC 6464): voice activity bit and level in -dBov.
    pub audio_level: Option<u8>,
    /// Offset of the payload in the buffer.
    pub payload_offset: u16,
    /// Length of the payload without padding, in bytes.
    pub payload_length: u16,
}

/// Where a packet is. Outlives the packet: once the place is reused the handle finds nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handle {
    index: u32,
    generation: u32,
}

/// The packets of one worker.
pub struct Slab {
    places: Vec<Place>,
    capacity: usize,
    next: usize,
}

struct Place {
    buffer: Buffer,
    packet: Packet,
    generation: u32,
}

impl Slab {
    /// A slab that keeps the last `capacity` packets, at least one.
    pub fn new(capacity: usize) -> Self {
        Self {
            places: Vec::new(),
            capacity: capacity.max(1),
            next: 0,
        }
    }

    /// Keeps `packet`, whose bytes are in `buffer`, in place of the oldest one, whose buffer the caller gets in exchange.
    pub fn keep(&mut self, buffer: &mut Buffer, packet: Packet) -> Handle {
        if self.places.len() < self.capacity {
            self.places.push(Place {
                buffer: self::buffer(),
                packet,
                generation: 0,
            });
            self.next = self.places.len().wrapping_sub(1);
        }
        let index = self.next;
        self.next = index.wrapping_add(1);
        if self.next >= self.capacity {
            self.next = 0;
        }
        let mut generation = 0;
        if let Some(place) = self.places.get_mut(index) {
            std::mem::swap(&mut place.buffer, buffer);
            place.packet = packet;
            place.generation = place.generation.wrapping_add(1);
            generation = place.generation;
        }
        Handle {
            index: u32::try_from(index).unwrap_or(u32::MAX),
            generation,
        }
    }

    /// The packet and its payload; `None` once its place was reused.
    pub fn get(&self, handle: Handle) -> Option<(&Packet, &[u8])> {
        let place = self.places.get(usize::try_from(handle.index).ok()?)?;
        if place.generation != handle.generation {
            return None;
        }
        let start = usize::from(place.packet.payload_offset);
        let end = start.checked_add(usize::from(place.packet.payload_length))?;
        Some((&place.packet, place.buffer.get(start..end)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(sequence: u64) -> Packet {
        Packet {
            sequence,
            payload_offset: 12,
            payload_length: 4,
            ..Packet::default()
        }
    }

    #[test]
    fn a_packet_is_readable_until_its_place_is_reused() {
        let mut slab = Slab::new(3);
        let mut received = buffer();
        let handles: Vec<Handle> = (0..4u8)
            .map(|n| {
                received[12..16].fill(n);
                slab.keep(&mut received, packet(n.into()))
            })
            .collect();
        assert_eq!(
            slab.get(handles[0]),
            None,
            "three places keep the last three packets"
        );
        for n in 1..4u8 {
            let (kept, payload) = slab.get(handles[usize::from(n)]).unwrap();
            assert_eq!((kept.sequence, payload), (n.into(), &[n; 4][..]));
        }
    }

    #[test]
    fn a_buffer_is_exchanged_not_copied() {
        let mut slab = Slab::new(1);
        let mut received = buffer();
        let first = received.as_ptr();
        slab.keep(&mut received, packet(1));
        assert_ne!(received.as_ptr(), first);
        slab.keep(&mut received, packet(2));
        assert_eq!(
            received.as_ptr(),
            first,
            "the reused place gives its buffer back"
        );
    }
}
