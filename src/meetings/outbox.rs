//! What connections are told, on its way to them: put into frames once for all, numbered for those who can resume, and
//! kept for those whose connection is lost.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use bytestring::ByteString;
use chrono::{DateTime, Utc};
use secrecy::SecretString;
use tokio::sync::mpsc;

use super::{Connection, Notice};
use crate::{id::ParticipantId, rooms::RoomName};

/// How the edge writes a notice: as JSON objects, each with at least one member. What is told to several names no
/// participant in its audience.
pub type Render = fn(&Notice, &Audience<'_>, DateTime<Utc>) -> Vec<ByteString>;

/// Who is told, and in which room.
#[derive(Clone, Copy, Debug)]
pub struct Audience<'a> {
    /// The room.
    pub room: &'a RoomName,
    /// The person told, where it is one who is in.
    pub participant: Option<ParticipantId>,
    /// The token that brings their connection back.
    pub resume_token: Option<&'a SecretString>,
}

/// A notice in its frames, which all who are told the same share.
#[derive(Debug)]
pub struct Told {
    /// What is told.
    pub notice: Notice,
    frames: Vec<ByteString>,
    bytes: usize,
}

/// A notice for one connection.
#[derive(Debug)]
pub struct Delivery {
    /// What is told.
    pub told: Arc<Told>,
    /// The number of its first frame, where frames are numbered.
    first: Option<u64>,
}

/// The way to one connection. The connection closes when it is dropped.
#[derive(Clone, Debug)]
pub struct Outbox {
    /// Which connection.
    pub connection: Connection,
    /// What brings the connection back when it is lost, where that can be.
    pub resume_token: Option<Arc<SecretString>>,
    queue: mpsc::Sender<Delivery>,
    queued: Arc<AtomicUsize>,
}

/// The connection's end of it.
#[derive(Debug)]
pub struct Deliveries {
    queue: mpsc::Receiver<Delivery>,
    queued: Arc<AtomicUsize>,
}

/// The last frames that somebody was sent, or would have been, for the case that they come back.
#[derive(Debug)]
pub struct Replay {
    kept: VecDeque<(u64, Arc<Told>)>,
    bytes: usize,
    next: u64,
}

impl Told {
    /// `notice`, which is written as `frames`.
    pub fn new(notice: Notice, frames: Vec<ByteString>) -> Self {
        let bytes = frames
            .iter()
            .map(|frame| frame.len() + FRAME_OVERHEAD)
            .sum();
        Self {
            notice,
            frames,
            bytes,
        }
    }

    /// The same with more frames after its own.
    pub fn followed_by(mut self, frames: Vec<ByteString>) -> Self {
        self.frames.extend(frames);
        Self::new(self.notice, self.frames)
    }
}

impl Delivery {
    /// Its frames, ready to be sent.
    pub fn frames(&self) -> impl Iterator<Item = ByteString> {
        let numbers = self.first.map(|first| first..);
        let numbers = numbers.into_iter().flatten().map(Some);
        let frames = self.told.frames.iter();
        frames
            .zip(numbers.chain(std::iter::repeat(None)))
            .map(|(frame, number)| match number {
                Some(number) => numbered(frame, number),
                None => frame.clone(),
            })
    }
}

impl Outbox {
    /// A way to a connection, both ends of it.
    pub fn new(connection: Connection, resume_token: Option<SecretString>) -> (Self, Deliveries) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let queued = Arc::new(AtomicUsize::new(0));
        let outbox = Self {
            connection,
            resume_token: resume_token.map(Arc::new),
            queue: sender,
            queued: queued.clone(),
        };
        let deliveries = Deliveries {
            queue: receiver,
            queued,
        };
        (outbox, deliveries)
    }

    /// Whether the connection has gone.
    pub fn is_closed(&self) -> bool {
        self.queue.is_closed()
    }

    /// Sends on what is told; `false` where the connection has gone, or too much waits for it already. `first` is the number
    /// of its first frame.
    pub fn post(&self, told: Arc<Told>, first: Option<u64>) -> bool {
        let bytes = told.bytes;
        // One frame may be as long as the whole queue.
        let queued = self.queued.fetch_add(bytes, Relaxed);
        (queued == 0 || queued + bytes <= QUEUE_BYTES)
            && self.queue.try_send(Delivery { told, first }).is_ok()
    }
}

impl Deliveries {
    /// What is to be sent next; `None` once the meeting has dropped the connection.
    pub async fn next(&mut self) -> Option<Delivery> {
        let delivery = self.queue.recv().await?;
        self.queued.fetch_sub(delivery.told.bytes, Relaxed);
        Some(delivery)
    }
}

impl Replay {
    /// For the frames that the owner of this epoch sends. Numbers rise from one owner to the next: who comes back with one
    /// of an owner before has missed something.
    pub fn new(epoch: i64) -> Self {
        Self {
            kept: VecDeque::new(),
            bytes: 0,
            next: (epoch.unsigned_abs() << EPOCH_SHIFT) + 1,
        }
    }

    /// Numbers what is told, and keeps it; the number of its first frame. The oldest goes where there is no room for all.
    pub fn push(&mut self, told: &Arc<Told>) -> u64 {
        let first = self.next;
        if told.frames.is_empty() {
            return first;
        }
        self.next += told.frames.len() as u64;
        self.kept.push_back((first, told.clone()));
        self.bytes += told.bytes;
        while self.bytes > REPLAY_BYTES {
            let Some((_, oldest)) = self.kept.pop_front() else {
                break;
            };
            self.bytes -= oldest.bytes;
        }
        first
    }

    /// The frames after the one with number `last`, with their numbers; `None` where they are not all there.
    pub fn since(&self, last: u64) -> Option<Vec<ByteString>> {
        let oldest = self.kept.front().map_or(self.next, |(first, _)| *first);
        if last >= self.next || last + 1 < oldest {
            return None;
        }
        let kept = self
            .kept
            .iter()
            .flat_map(|(first, told)| (*first..).zip(&told.frames));
        let missed = kept.filter(|(number, _)| *number > last);
        Some(
            missed
                .map(|(number, frame)| numbered(frame, number))
                .collect(),
        )
    }

    /// Forgets what was sent so far: a snapshot stands for it.
    pub fn clear(&mut self) {
        self.kept.clear();
        self.bytes = 0;
    }
}

/// The frame, with its number as the first member.
fn numbered(frame: &ByteString, number: u64) -> ByteString {
    let members = frame.strip_prefix('{').unwrap_or_default();
    format!("{{\"seq\":{number},{members}").into()
}

/// Notices that wait for a connection at most.
const QUEUE: usize = 1024;
/// Bytes that wait for a connection at most; one notice may be longer.
const QUEUE_BYTES: usize = 1024 * 1024;
/// Bytes of frames that are kept for somebody who can come back.
const REPLAY_BYTES: usize = 256 * 1024;
/// What a frame takes beside its text: its number, and its place in a queue.
const FRAME_OVERHEAD: usize = 32;
/// An owner numbers 2^32 frames, and browsers count to 2^53: enough for two million owners of a meeting.
const EPOCH_SHIFT: u32 = 32;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn told(texts: &[String]) -> Arc<Told> {
        let frames = texts
            .iter()
            .map(|text| format!("{{\"text\":\"{text}\"}}").into());
        Arc::new(Told::new(Notice::Restarting, frames.collect()))
    }

    fn read(frame: &ByteString) -> (u64, String) {
        let frame: serde_json::Value = serde_json::from_str(frame).unwrap();
        let text = frame["text"].as_str().unwrap();
        (frame["seq"].as_u64().unwrap(), text.to_owned())
    }

    /// What happens to somebody's connection.
    #[derive(Clone, Debug)]
    enum Step {
        /// So many frames of such a length are told at once.
        Tell(usize, usize),
        /// So many of the frames that wait reach the client.
        Receive(usize),
        /// The connection is lost with all that waits, and a new one is there after so many notices.
        Cut(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (1usize..4, 1usize..60_000).prop_map(|(frames, length)| Step::Tell(frames, length)),
            4 => (0usize..6).prop_map(Step::Receive),
            2 => (0usize..6).prop_map(Step::Cut),
        ];
        prop::collection::vec(step, 0..60)
    }

    proptest! {
        /// The client has, at each moment, exactly the frames that were told so far up to some point, in their order; after
        /// a snapshot, those from there on.
        #[test]
        fn whatever_is_cut_no_frame_is_lost_or_doubled_within_the_window(steps in steps(), epoch in 1i64..9) {
            let mut replay = Replay::new(epoch);
            let (mut sent, mut received) = (Vec::new(), Vec::new());
            let mut wire: VecDeque<ByteString> = VecDeque::new();
            let (mut count, mut last) = (0, epoch.unsigned_abs() << EPOCH_SHIFT);
            let mut say = |replay: &mut Replay, sent: &mut Vec<(u64, String)>, frames: usize, length: usize| {
                let texts: Vec<String> = (0..frames).map(|_| { count += 1; format!("{count}-{}", "x".repeat(length)) }).collect();
                let told = told(&texts);
                let first = replay.push(&told);
                sent.extend((first..).zip(texts));
                Delivery { told, first: Some(first) }
            };
            for step in steps {
                match step {
                    Step::Tell(frames, length) => wire.extend(say(&mut replay, &mut sent, frames, length).frames()),
                    Step::Receive(frames) => {
                        let frames = frames.min(wire.len());
                        received.extend(wire.drain(..frames).map(|frame| read(&frame)));
                        last = received.last().map_or(last, |(number, _)| *number);
                    }
                    Step::Cut(meanwhile) => {
                        wire.clear();
                        for _ in 0..meanwhile {
                            say(&mut replay, &mut sent, 1, 40_000);
                        }
                        match replay.since(last) {
                            Some(missed) => wire.extend(missed),
                            None => {
                                let missed: usize = sent.iter().filter(|(number, _)| *number > last).map(|(_, text)| text.len() + 64).sum();
                                let has_snapshot = sent.first().is_none_or(|(first, _)| last + 1 >= *first);
                                prop_assert!(!has_snapshot || missed > REPLAY_BYTES - 4 * 60_000, "{missed} bytes are within the window");
                                replay.clear();
                                sent.clear();
                                received.clear();
                                wire.extend(say(&mut replay, &mut sent, 1, 1).frames());
                            }
                        }
                    }
                }
                prop_assert!(sent.starts_with(&received));
            }
            received.extend(wire.drain(..).map(|frame| read(&frame)));
            prop_assert_eq!(sent, received);
        }
    }

    #[test]
    fn who_comes_back_with_a_number_of_another_owner_or_of_none_has_missed_something() {
        let mut replay = Replay::new(2);
        for number in 0..5 {
            replay.push(&told(&[number.to_string()]));
        }
        let base = 2 << EPOCH_SHIFT;
        assert_eq!(replay.since(base + 5), Some(Vec::new()));
        assert_eq!(replay.since(base).unwrap().len(), 5);
        for unknown in [0, 1, (1 << EPOCH_SHIFT) + 3, base - 1, base + 6, u64::MAX] {
            assert_eq!(replay.since(unknown), None, "{unknown}");
        }
    }

    #[tokio::test]
    async fn a_connection_that_takes_nothing_is_sent_no_more_than_its_queue_holds() {
        let (outbox, mut deliveries) = Outbox::new(Connection(1), None);
        let long = told(&["x".repeat(2 * QUEUE_BYTES)]);
        assert!(
            outbox.post(long.clone(), None),
            "one may be longer than the queue"
        );
        assert!(!outbox.post(told(&["a".to_owned()]), None));
        deliveries.next().await.unwrap();
        let (outbox, _deliveries) = Outbox::new(Connection(2), None);
        let part = told(&["x".repeat(QUEUE_BYTES / 4)]);
        let taken = (0..9)
            .take_while(|_| outbox.post(part.clone(), None))
            .count();
        assert_eq!(
            taken, 3,
            "a quarter and what a frame takes beside its text, three times"
        );
    }
}
