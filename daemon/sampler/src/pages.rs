//! The pages of a cache: which are free, and how many hold on to each of the others. Pure
//! bookkeeping; a page is a number.

/// The pages of a cache.
pub(crate) struct Pages {
    free: Vec<u32>,
    /// How many rows and prompts hold each page; 0: it is free.
    holders: Vec<u32>,
}

impl Pages {
    /// Makes `count` free pages.
    pub(crate) fn new(count: u32) -> Pages {
        Pages {
            // The last is taken first.
            free: (0..count).rev().collect(),
            holders: vec![0; count as usize],
        }
    }

    /// The number of free pages.
    pub(crate) fn free(&self) -> usize {
        self.free.len()
    }

    /// Takes `count` free pages; `None`, and none is taken, if there are fewer.
    pub(crate) fn take(&mut self, count: usize) -> Option<Vec<u32>> {
        let rest = self.free.len().checked_sub(count)?;
        let taken = self.free.split_off(rest);
        for page in &taken {
            self.holders[*page as usize] = 1;
        }
        Some(taken)
    }

    /// Holds on to pages that another holds already.
    pub(crate) fn share(&mut self, pages: &[u32]) {
        for page in pages {
            self.holders[*page as usize] += 1;
        }
    }

    /// Lets go of pages, each of which is free once nobody holds it.
    pub(crate) fn give_back(&mut self, pages: &[u32]) {
        for page in pages {
            let holders = &mut self.holders[*page as usize];
            *holders = holders.saturating_sub(1);
            if *holders == 0 {
                self.free.push(*page);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        /// Holders come and go in any order: no page has two owners that did not share it, none is
        /// lost, and all are free in the end.
        #[test]
        fn every_page_is_free_or_held(
            count in 1u32..40,
            acts in proptest::collection::vec(
                (0u8..3, 0usize..12, any::<prop::sample::Index>()),
                0..120,
            ),
        ) {
            let mut pages = Pages::new(count);
            let mut held: Vec<Vec<u32>> = vec![];
            for (act, wanted, which) in acts {
                match act {
                    0 => match pages.take(wanted) {
                        Some(taken) => {
                            let others: BTreeSet<u32> = held.iter().flatten().copied().collect();
                            prop_assert_eq!(taken.len(), wanted);
                            prop_assert!(taken.iter().all(|page| !others.contains(page)));
                            held.push(taken);
                        }
                        None => prop_assert!(pages.free() < wanted),
                    },
                    1 if !held.is_empty() => {
                        let shared = held[which.index(held.len())].clone();
                        pages.share(&shared);
                        held.push(shared);
                    }
                    2 if !held.is_empty() => {
                        let given = held.swap_remove(which.index(held.len()));
                        pages.give_back(&given);
                    }
                    _ => (),
                }
                let in_use: BTreeSet<u32> = held.iter().flatten().copied().collect();
                prop_assert_eq!(pages.free() + in_use.len(), count as usize);
            }
            held.iter().for_each(|given| pages.give_back(given));
            prop_assert_eq!(pages.free(), count as usize);
        }
    }
}
