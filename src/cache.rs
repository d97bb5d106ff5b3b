//! A cache of what rows said a moment ago, for questions that nearly every request asks.

use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::{BuildHasher, Hash},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::clock::Clock;

/// What reads by a key found, or that they found nothing; each is told for less than [`LONGEST`] from the moment before its
/// `SELECT` was sent, so that what another process wrote counts within a second.
///
/// **Nothing that decides a write reads it.** Admission, `If-Match` and every write read the row itself, in their
/// transaction: a cache is for whose key it is, not for what a room allows.
///
/// Who writes a row [forgets](Cache::forget) its key after the commit, and with that the old row is gone at once: also from
/// the reads that are under way, whose [`Ticket`] is void. A read that fails leaves nothing.
///
/// Rows and absences are kept apart, each up to a number of its own, so that a flood of keys that do not exist takes no
/// memory and no place from those that do.
#[derive(Debug)]
pub struct Cache<K, V> {
    state: Mutex<State<K, V>>,
    hasher: RandomState,
}

/// What is known of a key.
#[derive(Debug)]
pub enum Known<K, V> {
    /// The row, or that there is none.
    Fresh(Option<V>),
    /// Nothing: it is to be read, and may then be [put](Cache::put).
    Unknown(Ticket<K>),
}

/// The right to put what a read finds, taken before the read is sent.
#[derive(Debug)]
pub struct Ticket<K> {
    key: K,
    asked: Instant,
    writes: u64,
}

impl<K: Clone + Eq + Hash, V: Clone> Cache<K, V> {
    /// An empty cache of up to `most` rows, and as many keys that have none.
    pub fn new(most: usize) -> Self {
        let state = State {
            rows: Shelves::new(most),
            absent: Shelves::new(most),
            writes: [0; SLOTS],
        };
        Self {
            state: Mutex::new(state),
            hasher: RandomState::new(),
        }
    }

    /// What is known of `key`, or else what `read` finds, which is put. `read` is sent when it is first polled.
    ///
    /// # Errors
    ///
    /// Those of `read`.
    pub async fn get<E>(
        &self,
        key: K,
        clock: &Clock,
        read: impl Future<Output = Result<Option<V>, E>>,
    ) -> Result<Option<V>, E> {
        match self.look(key, clock.instant()) {
            Known::Fresh(found) => Ok(found),
            Known::Unknown(ticket) => {
                let found = read.await?;
                self.put(ticket, found.clone());
                Ok(found)
            }
        }
    }

    /// What is known of `key` at `now`.
    pub fn look(&self, key: K, now: Instant) -> Known<K, V> {
        let state = self.state();
        let fresh = |asked: Instant| now.saturating_duration_since(asked) < LONGEST;
        match state.rows.get(&key) {
            Some((asked, row)) if fresh(*asked) => return Known::Fresh(Some(row.clone())),
            _ => {}
        }
        match state.absent.get(&key) {
            Some((asked, ())) if fresh(*asked) => return Known::Fresh(None),
            _ => {}
        }
        Known::Unknown(Ticket {
            writes: state.writes[self.slot(&key)],
            asked: now,
            key,
        })
    }

    /// Keeps what the read of `ticket` found; not, if its key was forgotten since.
    pub fn put(&self, ticket: Ticket<K>, found: Option<V>) {
        let Ticket { key, asked, writes } = ticket;
        let mut state = self.state();
        if state.writes[self.slot(&key)] != writes {
            return;
        }
        match found {
            Some(row) => {
                state.absent.remove(&key);
                state.rows.put(key, (asked, row));
            }
            None => {
                state.rows.remove(&key);
                state.absent.put(key, (asked, ()));
            }
        }
    }

    /// Forgets what is known of `key`, and what reads under way find out. To be called once a write of its row is committed.
    pub fn forget(&self, key: &K) {
        let mut state = self.state();
        state.writes[self.slot(key)] += 1;
        state.rows.remove(key);
        state.absent.remove(key);
    }

    /// Forgets everything, as [`Cache::forget`] does one key.
    pub fn clear(&self) {
        let mut state = self.state();
        state.writes.iter_mut().for_each(|writes| *writes += 1);
        state.rows.clear();
        state.absent.clear();
    }

    fn slot(&self, key: &K) -> usize {
        let hash = self.hasher.hash_one(key);
        usize::try_from(hash % SLOTS as u64).unwrap_or_default()
    }

    fn state(&self) -> MutexGuard<'_, State<K, V>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct State<K, V> {
    rows: Shelves<K, (Instant, V)>,
    absent: Shelves<K, (Instant, ())>,
    /// How often keys were forgotten. Many keys share a counter: a read may be put aside for another's sake, and no counter
    /// is needed per key.
    writes: [u64; SLOTS],
}

/// A map of bounded size that lets go of what was put longest ago, by the half.
#[derive(Debug)]
struct Shelves<K, V> {
    new: HashMap<K, V>,
    old: HashMap<K, V>,
    /// Most entries of each.
    most: usize,
}

impl<K: Eq + Hash, V> Shelves<K, V> {
    fn new(most: usize) -> Self {
        Self {
            new: HashMap::new(),
            old: HashMap::new(),
            most: (most / 2).max(1),
        }
    }

    fn get(&self, key: &K) -> Option<&V> {
        self.new.get(key).or_else(|| self.old.get(key))
    }

    fn put(&mut self, key: K, value: V) {
        if self.new.len() >= self.most && !self.new.contains_key(&key) {
            self.old = std::mem::take(&mut self.new);
        }
        self.old.remove(&key);
        self.new.insert(key, value);
    }

    fn remove(&mut self, key: &K) {
        self.new.remove(key);
        self.old.remove(key);
    }

    fn clear(&mut self) {
        self.new.clear();
        self.old.clear();
    }
}

/// Leaves a tenth of a second, of the one within which a write of another process counts, for the request itself.
pub const LONGEST: Duration = Duration::from_millis(900);
/// Enough that hundreds of writes a second seldom void a read of another key.
const SLOTS: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    type Numbers = Cache<u32, u32>;

    fn start() -> Instant {
        Clock::system().instant()
    }

    /// What is told of `key`; `None` where it is to be read.
    fn told(cache: &Numbers, key: u32, now: Instant) -> Option<Option<u32>> {
        match cache.look(key, now) {
            Known::Fresh(found) => Some(found),
            Known::Unknown(_) => None,
        }
    }

    fn ticket(cache: &Numbers, key: u32, now: Instant) -> Ticket<u32> {
        match cache.look(key, now) {
            Known::Unknown(ticket) => ticket,
            Known::Fresh(found) => panic!("{key} is known as {found:?}"),
        }
    }

    fn read(cache: &Numbers, key: u32, found: Option<u32>, now: Instant) {
        cache.put(ticket(cache, key, now), found);
    }

    #[test]
    fn a_row_and_an_absence_are_told_for_900_ms_from_the_moment_their_read_was_sent() {
        let (cache, sent) = (Numbers::new(8), start());
        let (one, two) = (ticket(&cache, 1, sent), ticket(&cache, 2, sent));
        // However late the answers come.
        cache.put(one, Some(10));
        cache.put(two, None);
        let last = sent + Duration::from_millis(899);
        assert_eq!(told(&cache, 1, last), Some(Some(10)));
        assert_eq!(told(&cache, 2, last), Some(None));
        let over = sent + Duration::from_millis(900);
        assert_eq!(told(&cache, 1, over), None);
        assert_eq!(told(&cache, 2, over), None);
        read(&cache, 1, Some(11), over);
        assert_eq!(told(&cache, 1, over), Some(Some(11)));
    }

    #[test]
    fn a_write_is_seen_at_once() {
        let (cache, now) = (Numbers::new(8), start());
        for key in 0..4 {
            read(&cache, key, (key < 2).then_some(key), now);
        }
        cache.forget(&0);
        cache.forget(&2);
        let known = [0, 1, 2, 3].map(|key| told(&cache, key, now));
        assert_eq!(known, [None, Some(Some(1)), None, Some(None)]);
        cache.clear();
        let known = [0, 1, 2, 3].map(|key| told(&cache, key, now));
        assert_eq!(known, [None; 4]);
    }

    #[test]
    fn a_read_that_a_write_overtook_is_not_kept() {
        let (cache, now) = (Numbers::new(8), start());
        let forgets: [fn(&Numbers); 2] = [|cache| cache.forget(&1), Cache::clear];
        for forget in forgets {
            let (before, also_before) = (ticket(&cache, 1, now), ticket(&cache, 1, now));
            forget(&cache);
            let after = ticket(&cache, 1, now);
            cache.put(before, Some(1));
            assert_eq!(told(&cache, 1, now), None);
            cache.put(after, Some(2));
            cache.put(also_before, None);
            assert_eq!(told(&cache, 1, now), Some(Some(2)));
            cache.forget(&1);
        }
    }

    #[test]
    fn what_is_found_replaces_an_absence_and_the_other_way_round() {
        let (cache, sent) = (Numbers::new(8), start());
        for (turn, found) in [None, Some(1), None].into_iter().enumerate() {
            let now = sent + LONGEST * u32::try_from(turn).unwrap();
            read(&cache, 7, found, now);
            assert_eq!(told(&cache, 7, now), Some(found));
        }
    }

    #[test]
    fn a_flood_of_keys_that_do_not_exist_takes_neither_memory_nor_the_place_of_those_that_do() {
        let (cache, now) = (Numbers::new(100), start());
        for key in 0..50 {
            read(&cache, key, Some(key), now);
        }
        for key in 1000..10_000 {
            read(&cache, key, None, now);
        }
        assert!((0..50).all(|key| told(&cache, key, now) == Some(Some(key))));
        assert_eq!(told(&cache, 9_999, now), Some(None));
        for key in 20_000..30_000 {
            read(&cache, key, Some(key), now);
        }
        let state = cache.state();
        for held in [
            state.rows.new.len() + state.rows.old.len(),
            state.absent.new.len() + state.absent.old.len(),
        ] {
            assert!((50..=100).contains(&held), "{held}");
        }
    }

    #[tokio::test]
    async fn a_read_that_fails_leaves_nothing_and_one_that_answers_is_kept() {
        let (cache, clock) = (Numbers::new(8), Clock::system());
        let before = clock.instant();
        let failed = cache.get(1, &clock, async { Err("away") }).await;
        assert_eq!(failed, Err("away"));
        assert_eq!(told(&cache, 1, before), None);
        for found in [Some(5), None] {
            let read = cache.get(1, &clock, async { Ok::<_, &str>(found) }).await;
            assert_eq!(read, Ok(found));
            assert_eq!(told(&cache, 1, before), Some(found));
            cache.clear();
        }
    }
}
