//! Which track is shown in which slot.

/// Brings the slots of one kind of one subscriber up to date with the tracks it may see.
///
/// A slot keeps its track for as long as that is available. Tracks without a slot take the free ones in order, so that what
/// came first is seen first, and a place that becomes free goes to the track that waits longest.
pub fn assign<T: Copy + PartialEq>(slots: &mut [Option<T>], available: &[T]) {
    for slot in slots.iter_mut() {
        slot.take_if(|track| !available.contains(track));
    }
    for track in available {
        if slots.contains(&Some(*track)) {
            continue;
        }
        match slots.iter_mut().find(|slot| slot.is_none()) {
            Some(slot) => *slot = Some(*track),
            None => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn tracks_take_free_slots_in_order() {
        let mut slots = [None; 3];
        assign(&mut slots, &['a', 'b']);
        assert_eq!(slots, [Some('a'), Some('b'), None]);
    }

    #[test]
    fn a_track_that_goes_leaves_the_others_where_they_are() {
        let mut slots = [Some('a'), Some('b'), Some('c')];
        assign(&mut slots, &['a', 'c']);
        assert_eq!(slots, [Some('a'), None, Some('c')]);
    }

    #[test]
    fn a_freed_slot_goes_to_the_track_that_waits_longest() {
        let mut slots = [Some('a'), Some('b')];
        assign(&mut slots, &['b', 'c', 'd']);
        assert_eq!(slots, [Some('c'), Some('b')]);
    }

    proptest! {
        #[test]
        fn assignment_is_stable_complete_and_without_doubles(
            before in proptest::collection::vec(proptest::option::of(0..20u8), 0..8),
            available in proptest::collection::btree_set(0..20u8, 0..12),
        ) {
            // No doubles before, as none are ever made.
            let mut before = before;
            for position in (1..before.len()).rev() {
                if before[..position].contains(&before[position]) {
                    before[position] = None;
                }
            }
            let available: Vec<u8> = available.into_iter().collect();
            let mut after = before.clone();
            assign(&mut after, &available);
            for (was, is) in before.iter().zip(&after) {
                if was.is_some_and(|track| available.contains(&track)) {
                    prop_assert_eq!(was, is);
                }
            }
            let mut shown: Vec<u8> = after.iter().copied().flatten().collect();
            prop_assert!(shown.iter().all(|track| available.contains(track)));
            prop_assert_eq!(shown.len(), after.len().min(available.len()).max(shown.len()));
            shown.sort_unstable();
            shown.dedup();
            prop_assert_eq!(shown.len(), after.iter().flatten().count());
        }
    }
}
