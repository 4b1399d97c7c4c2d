//! Decides which sample decodes in which slot, by pure bookkeeping without tensors.
//!
//! This is for a cache of slots; `paged_schedule` is for one of pages.
//!
//! Slots `0..live` decode, with no holes, so that a decode step's work is proportional to what
//! lives and the cache is read as one view. Samples wait in the request's order. A slot that ends
//! is refilled at once; when nothing waits, the last live slots move into the holes.
//!
//! A group's prompt is prefilled once. Its samples stand together in the queue, so while one waits,
//! some slot still holds the prompt: a slot that ends is only given to a later group after the
//! waiting samples of this one. Decoding writes behind the prompt and leaves it alone, so any of
//! these slots, ended or not, can be copied from.

use std::collections::VecDeque;

/// The place of a sample, in the queue or in a slot: indices into the request's `groups` and that
/// group's `samples`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub group: usize,
    pub sample: usize,
}

/// Changes of rows and cache before the next decode step, in the order of the fields.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    /// Copies of a prompt from a slot that holds it to other slots: (group, from, to). At most one
    /// group has copies.
    pub copies: Vec<(usize, usize, Vec<usize>)>,
    /// Prompts to compute, and all slots that get the result: (group, slots).
    pub prefills: Vec<(usize, Vec<usize>)>,
    /// Samples that start, by ascending slot; a slot after the last live one is a new row.
    pub started: Vec<(usize, Place)>,
    /// (from, to): moves of live rows into freed slots that no sample takes over, so that slots
    /// `0..live` stay full. No slot is in two moves.
    pub moves: Vec<(usize, usize)>,
    /// The number of slots that decode afterwards: `0..live`.
    pub live: usize,
}

pub(crate) struct Schedule {
    waiting: VecDeque<Place>,
    /// The group whose prompt each slot holds, live or not.
    holds: Vec<Option<usize>>,
    live: usize,
}

impl Schedule {
    /// Starts a schedule; `samples[g]` is the number of samples to draw of group `g`, and `slots`
    /// is at least 1.
    pub(crate) fn new(slots: usize, samples: &[usize]) -> Schedule {
        let places = |(group, &count): (usize, &usize)| {
            (0..count).map(move |sample| Place { group, sample })
        };
        Schedule {
            waiting: samples.iter().enumerate().flat_map(places).collect(),
            holds: vec![None; slots],
            live: 0,
        }
    }

    /// Whether samples of `group`, which was prefilled, still wait.
    pub(crate) fn waits(&self, group: usize) -> bool {
        // The queue is in group order, and groups after the front's are not prefilled yet.
        self.waiting
            .front()
            .is_some_and(|place| place.group == group)
    }

    /// The number of samples without a slot.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Gives the `ended` slots (ascending) and the slots that are not live to waiting samples.
    pub(crate) fn turn_over(&mut self, ended: &[usize]) -> Changes {
        let mut changes = Changes::default();
        let before = self.holds.clone();
        let mut free = ended.iter().copied().chain(self.live..self.holds.len());
        let refilled = ended.len().min(self.waiting.len());
        for slot in free.by_ref().take(self.waiting.len()) {
            let Some(place) = self.waiting.pop_front() else {
                break;
            };
            changes.started.push((slot, place));
            self.bring_prompt(&mut changes, &before, slot, place.group);
            self.live = self.live.max(slot + 1);
        }
        let holes = &ended[refilled..];
        let live = self.live - holes.len();
        let staying = (live..self.live).filter(|slot| !holes.contains(slot));
        changes.moves = staying.zip(holes.iter().copied()).collect();
        for &(from, to) in &changes.moves {
            self.holds[to] = self.holds[from];
        }
        (self.live, changes.live) = (live, live);
        changes
    }

    fn bring_prompt(
        &mut self,
        changes: &mut Changes,
        before: &[Option<usize>],
        slot: usize,
        group: usize,
    ) {
        self.holds[slot] = Some(group);
        if before[slot] == Some(group) {
            return;
        }
        if let Some(from) = before.iter().position(|held| *held == Some(group)) {
            match changes.copies.iter_mut().find(|(g, ..)| *g == group) {
                Some((.., to)) => to.push(slot),
                None => changes.copies.push((group, from, vec![slot])),
            }
        } else {
            match changes.prefills.iter_mut().find(|(g, _)| *g == group) {
                Some((_, slots)) => slots.push(slot),
                None => changes.prefills.push((group, vec![slot])),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_group_larger_than_the_slots_is_prefilled_once() {
        let mut schedule = Schedule::new(2, &[3, 1]);
        let first = schedule.turn_over(&[]);
        assert_eq!(first.prefills, [(0, vec![0, 1])]);
        assert!(schedule.waits(0));
        // Slot 1 still holds group 0's prompt, so no copy is needed.
        let second = schedule.turn_over(&[1]);
        assert_eq!(
            second.started,
            [(
                1,
                Place {
                    group: 0,
                    sample: 2
                }
            )]
        );
        assert!(second.prefills.is_empty() && second.copies.is_empty());
        let third = schedule.turn_over(&[0]);
        assert_eq!(third.prefills, [(1, vec![0])]);
        let last = schedule.turn_over(&[0]);
        assert_eq!((last.moves, last.live), (vec![(1, 0)], 1));
    }

    #[test]
    fn a_prompt_is_copied_from_a_slot_that_another_group_takes_over_in_the_same_turn() {
        let mut schedule = Schedule::new(3, &[1, 3, 1]);
        assert_eq!(
            schedule.turn_over(&[]).prefills,
            [(0, vec![0]), (1, vec![1, 2])]
        );
        let changes = schedule.turn_over(&[0, 1]);
        assert_eq!(changes.copies, [(1, 1, vec![0])]);
        assert_eq!(changes.prefills, [(2, vec![1])]);
    }

    /// Plays a schedule with made-up lengths and checks, slot by slot, that the right sample
    /// decodes.
    fn play(slots: usize, samples: &[usize], lengths: &[u8]) {
        let mut schedule = Schedule::new(slots, samples);
        let mut content: Vec<Option<usize>> = vec![None; slots];
        // group whose prompt really lies in the slot
        let mut rows: Vec<(Place, u8)> = vec![];
        let (mut prefilled, mut drawn, mut ended) = (vec![0; samples.len()], vec![], vec![]);
        loop {
            let changes = schedule.turn_over(&ended);
            for (group, from, to) in &changes.copies {
                assert_eq!(content[*from], Some(*group));
                to.iter().for_each(|&slot| content[slot] = Some(*group));
            }
            for (group, slots) in &changes.prefills {
                prefilled[*group] += 1;
                slots.iter().for_each(|&slot| content[slot] = Some(*group));
            }
            for (slot, place) in changes.started {
                let row = (
                    place,
                    lengths[(place.group * 7 + place.sample) % lengths.len()],
                );
                drawn.push(place);
                if slot < rows.len() {
                    rows[slot] = row;
                } else {
                    assert_eq!(slot, rows.len());
                    rows.push(row);
                }
            }
            for (from, to) in changes.moves {
                content[to] = content[from];
                rows.swap(from, to);
            }
            rows.truncate(changes.live);
            if rows.is_empty() {
                break;
            }
            for (slot, row) in rows.iter_mut().enumerate() {
                assert_eq!(content[slot], Some(row.0.group));
                row.1 -= 1;
            }
            ended = rows
                .iter()
                .enumerate()
                .filter(|(_, row)| row.1 == 0)
                .map(|(slot, _)| slot)
                .collect();
        }
        assert_eq!(drawn.len(), samples.iter().sum::<usize>());
        for (group, count) in samples.iter().enumerate() {
            assert_eq!(
                prefilled[group],
                usize::from(*count > 0),
                "prefills of group {group}"
            );
        }
    }

    proptest! {
        #[test]
        fn every_sample_decodes_once_behind_its_own_prompt(
            slots in 1usize..7,
            samples in proptest::collection::vec(0usize..6, 0..6),
            lengths in proptest::collection::vec(1u8..9, 1..20),
        ) {
            play(slots, &samples, &lengths);
        }
    }
}
