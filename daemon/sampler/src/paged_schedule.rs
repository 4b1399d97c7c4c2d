//! Decides which sample decodes in which row, and in which pages of the cache, by pure bookkeeping
//! without tensors.
//!
//! A row takes pages as it grows, so what the cache holds follows what rows have, not what they may
//! come to. A group's prompt is prefilled once, and its whole pages are shared: while samples of
//! the group wait, the schedule holds the prompt itself; each row takes a copy of the prompt's last
//! page if that is not full, because the row writes on behind it. The last sample takes the
//! prompt's own pages.
//!
//! Where no page is free for the next block of steps, the row that started last is put back: it
//! gives up its pages, waits before all samples that have not started, and comes back by a prefill
//! of all that it had. The row that started first is never put back, so there is always progress: a
//! cache must hold one row of the greatest length.

use crate::pages::Pages;
use crate::schedule::Place;
use std::collections::VecDeque;

/// What a schedule is made for.
pub(crate) struct PagedSizes {
    /// Most rows that decode together, at least 1.
    pub rows: usize,
    /// Pages of the cache.
    pub pages: u32,
    /// Tokens of a page.
    pub page_tokens: usize,
    /// Most tokens of a completion.
    pub completion_max: usize,
}

/// Changes of rows and cache before the next block of steps, in the order of the fields.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Turn {
    /// Prompts to compute into pages: (group, pages).
    pub prefills: Vec<(usize, Vec<u32>)>,
    /// Copies of whole pages: (from, to).
    pub copies: Vec<(u32, u32)>,
    /// Rows that come back, with the sample that had been put back; all of their tokens are to be
    /// computed into their pages.
    pub resumed: Vec<(usize, Place)>,
    /// Samples that start, by ascending row; a row after the last one is new.
    pub started: Vec<(usize, Place)>,
    /// (from, to): moves of rows into those that ended or were put back and that no sample takes
    /// over. No row is in two moves.
    pub moves: Vec<(usize, usize)>,
    /// The number of rows that decode afterwards. Behind them are, beside rows that ended, those
    /// that were put back.
    pub live: usize,
}

pub(crate) struct PagedSchedule {
    sizes: PagedSizes,
    pages: Pages,
    /// Tokens of each group's prompt.
    prompts: Vec<usize>,
    waiting: VecDeque<Place>,
    /// Rows that were put back, the one that started first at the front. All of them started later
    /// than all that decode.
    put_back: VecDeque<PutBack>,
    /// Rows that decode; `None` only within a turn.
    rows: Vec<Option<PagedRow>>,
    /// Pages of the prompt whose samples wait at the front.
    prompt: Option<(usize, Vec<u32>)>,
    /// Samples that have started.
    count: usize,
    /// Rows that were put back so far.
    pub preemptions: u64,
}

struct PagedRow {
    place: Place,
    /// The how-manieth sample it was to start.
    started: usize,
    pages: Vec<u32>,
}

struct PutBack {
    place: Place,
    started: usize,
    tokens: usize,
}

impl PagedSchedule {
    /// Starts a schedule; `prompts[g]` and `samples[g]` are the tokens of group `g`'s prompt and
    /// the number of its samples. The pages must hold the longest prompt and completion.
    pub(crate) fn new(sizes: PagedSizes, prompts: Vec<usize>, samples: &[usize]) -> PagedSchedule {
        let places = |(group, &count): (usize, &usize)| {
            (0..count).map(move |sample| Place { group, sample })
        };
        PagedSchedule {
            pages: Pages::new(sizes.pages),
            sizes,
            prompts,
            waiting: samples.iter().enumerate().flat_map(places).collect(),
            put_back: VecDeque::new(),
            rows: Vec::new(),
            prompt: None,
            count: 0,
            preemptions: 0,
        }
    }

    /// Whether samples of `group`, which was prefilled, have not started.
    pub(crate) fn waits(&self, group: usize) -> bool {
        self.waiting
            .front()
            .is_some_and(|place| place.group == group)
    }

    /// The number of samples that have not started.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// The pages of each row.
    pub(crate) fn tables(&self) -> Vec<&[u32]> {
        let rows = self.rows.iter().flatten();
        rows.map(|row| &row.pages[..]).collect()
    }

    /// Frees the `ended` rows, gives the others pages for `ahead` tokens more than the `tokens`
    /// that each holds, puts rows back where there are none, and starts samples.
    pub(crate) fn turn_over(&mut self, ended: &[usize], tokens: &[usize], ahead: usize) -> Turn {
        let mut turn = Turn::default();
        for &row in ended {
            if let Some(ended) = self.rows[row].take() {
                self.pages.give_back(&ended.pages);
            }
        }
        let before = self.preemptions;
        self.grow(tokens, ahead);
        // What was given up goes to the rows that are left, not to others.
        if self.preemptions == before {
            while self.admit(&mut turn, ahead) {}
        }
        self.close(&mut turn);
        turn
    }

    /// Gives each row, the oldest first, the pages of its next tokens.
    fn grow(&mut self, tokens: &[usize], ahead: usize) {
        let mut oldest_first: Vec<(usize, usize)> = (self.rows.iter().enumerate())
            .filter_map(|(at, row)| Some((row.as_ref()?.started, at)))
            .collect();
        oldest_first.sort_unstable();
        for (_, at) in oldest_first {
            while let Some(row) = &mut self.rows[at] {
                let longest = self.prompts[row.place.group] + self.sizes.completion_max;
                let needed = (tokens[at] + ahead)
                    .min(longest)
                    .div_ceil(self.sizes.page_tokens);
                let missing = needed.saturating_sub(row.pages.len());
                match self.pages.take(missing) {
                    Some(taken) => {
                        row.pages.extend(taken);
                        break;
                    }
                    None if self.give_up_prompt() => (),
                    None => self.put_back_youngest(tokens),
                }
            }
        }
    }

    /// Lets go of the prompt that is held for samples that wait; it is computed again for them.
    fn give_up_prompt(&mut self) -> bool {
        let Some((_, pages)) = self.prompt.take() else {
            return false;
        };
        self.pages.give_back(&pages);
        true
    }

    fn put_back_youngest(&mut self, tokens: &[usize]) {
        let youngest = (self.rows.iter_mut().enumerate())
            .max_by_key(|(_, row)| row.as_ref().map(|row| row.started));
        let Some((at, Some(row))) = youngest.map(|(at, row)| (at, row.take())) else {
            return;
        };
        self.pages.give_back(&row.pages);
        self.preemptions += 1;
        self.put_back.push_front(PutBack {
            place: row.place,
            started: row.started,
            tokens: tokens[at],
        });
    }

    /// Starts the next sample if there is a row and there are pages for it.
    fn admit(&mut self, turn: &mut Turn, ahead: usize) -> bool {
        let live = self.rows.iter().flatten().count();
        if live == self.sizes.rows {
            return false;
        }
        // Pages that are left to the others: one for each that may still need one.
        let spare = self.pages.free().checked_sub(self.soon_needed());
        let Some(spare) = spare else {
            return false;
        };
        match self.put_back.front() {
            Some(back) => {
                let needed = self.pages_for(back.place.group, back.tokens + ahead);
                // No prompt is held in its way: it would have been given up before the row was.
                needed <= spare && self.resume(turn, needed)
            }
            None => self.start(turn, (spare, live == 0), ahead),
        }
    }

    fn resume(&mut self, turn: &mut Turn, needed: usize) -> bool {
        let (Some(back), Some(pages)) = (self.put_back.pop_front(), self.pages.take(needed)) else {
            return false;
        };
        let PutBack { place, started, .. } = back;
        let row = PagedRow {
            place,
            started,
            pages,
        };
        turn.resumed.push((self.seat(row), place));
        true
    }

    /// Starts the sample at the front, `alone` if no other row lives.
    fn start(&mut self, turn: &mut Turn, (spare, alone): (usize, bool), ahead: usize) -> bool {
        let Some(&place) = self.waiting.front() else {
            return false;
        };
        let (group, page_tokens) = (place.group, self.sizes.page_tokens);
        let whole = self.prompts[group] / page_tokens;
        let of_prompt = self.prompts[group].div_ceil(page_tokens);
        let behind = self.pages_for(group, self.prompts[group] + ahead) - of_prompt;
        let held = self.prompt.as_ref().is_some_and(|(held, _)| *held == group);
        let new = if held { 0 } else { of_prompt };
        let last = self.waiting.get(1).is_none_or(|next| next.group != group);
        let shares = !last && new + (of_prompt - whole) + behind <= spare;
        // A row that decodes alone may take the prompt's own pages although others wait for it.
        if !shares && ((!last && !alone) || new + behind > spare) {
            return false;
        }
        let prompt = match self.prompt.take() {
            Some((_, prompt)) if held => prompt,
            _ => self.pages.take(new).unwrap_or_default(),
        };
        if !held {
            turn.prefills.push((group, prompt.clone()));
        }
        let mut pages = prompt.clone();
        if shares {
            let own = self.pages.take(of_prompt - whole).unwrap_or_default();
            self.pages.share(&prompt[..whole]);
            turn.copies
                .extend(prompt[whole..].iter().copied().zip(own.iter().copied()));
            pages.truncate(whole);
            pages.extend(own);
            self.prompt = Some((group, prompt));
        }
        pages.extend(self.pages.take(behind).unwrap_or_default());
        let _ = self.waiting.pop_front();
        let started = self.count;
        self.count += 1;
        let row = PagedRow {
            place,
            started,
            pages,
        };
        turn.started.push((self.seat(row), place));
        true
    }

    /// Puts a row into the first place that is empty.
    fn seat(&mut self, row: PagedRow) -> usize {
        let hole = self.rows.iter().position(Option::is_none);
        match hole {
            Some(at) => {
                self.rows[at] = Some(row);
                at
            }
            None => {
                self.rows.push(Some(row));
                self.rows.len() - 1
            }
        }
    }

    /// Pages of a row of this group with `tokens` tokens, of which it may not come to as many.
    fn pages_for(&self, group: usize, tokens: usize) -> usize {
        let longest = self.prompts[group] + self.sizes.completion_max;
        tokens.min(longest).div_ceil(self.sizes.page_tokens)
    }

    /// Rows that may need another page.
    fn soon_needed(&self) -> usize {
        let needs = |row: &&PagedRow| row.pages.len() < self.pages_for(row.place.group, usize::MAX);
        self.rows.iter().flatten().filter(needs).count()
    }

    /// Moves rows into the holes, the last into the first.
    fn close(&mut self, turn: &mut Turn) {
        let holes: Vec<usize> = (0..self.rows.len())
            .filter(|at| self.rows[*at].is_none())
            .collect();
        let live = self.rows.len() - holes.len();
        let staying = (live..self.rows.len()).filter(|at| !holes.contains(at));
        turn.moves = staying.zip(holes.iter().copied()).collect();
        for &(from, to) in &turn.moves {
            self.rows.swap(from, to);
        }
        self.rows.truncate(live);
        turn.live = live;
    }
}

#[cfg(test)]
#[path = "paged_schedule_tests.rs"]
mod tests;
