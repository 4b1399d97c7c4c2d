use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

const PAGE: usize = 4;

/// What a place of the cache holds.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Token {
    /// A token of a group's prompt.
    Prompt(usize, usize),
    /// A token of a sample's completion.
    Drawn(usize, usize, usize),
}

/// A cache and rows that decode in it as the schedule says, with made-up lengths.
struct Player {
    schedule: PagedSchedule,
    prompts: Vec<usize>,
    cache: Vec<[Option<Token>; PAGE]>,
    /// Each row's sample and the tokens that it holds.
    rows: Vec<(Place, usize)>,
    /// Tokens that samples had when they were put back.
    put_back: BTreeMap<(usize, usize), usize>,
    started: Vec<Place>,
    prefills: usize,
}

impl Player {
    fn token(&self, place: Place, at: usize) -> Token {
        let prompt = self.prompts[place.group];
        match at.checked_sub(prompt) {
            None => Token::Prompt(place.group, at),
            Some(drawn) => Token::Drawn(place.group, place.sample, drawn),
        }
    }

    fn write(&mut self, pages: &[u32], at: usize, token: Token) {
        self.cache[pages[at / PAGE] as usize][at % PAGE] = Some(token);
    }

    fn turn(&mut self, ended: &[usize], ahead: usize) {
        let tokens: Vec<usize> = self.rows.iter().map(|row| row.1).collect();
        let turn = self.schedule.turn_over(ended, &tokens, ahead);
        for (group, pages) in &turn.prefills {
            self.prefills += 1;
            for at in 0..self.prompts[*group] {
                self.write(pages, at, Token::Prompt(*group, at));
            }
        }
        for (from, to) in &turn.copies {
            self.cache[*to as usize] = self.cache[*from as usize];
        }
        let mut seats: BTreeMap<usize, (Place, usize)> = BTreeMap::new();
        for (row, place) in &turn.resumed {
            let tokens = self.put_back.remove(&(place.group, place.sample)).unwrap();
            seats.insert(*row, (*place, tokens));
        }
        for (row, place) in &turn.started {
            self.started.push(*place);
            seats.insert(*row, (*place, self.prompts[place.group]));
        }
        for (row, seat) in seats {
            if row < self.rows.len() {
                assert!(ended.contains(&row), "row {row} lives");
                self.rows[row] = seat;
            } else {
                assert_eq!(row, self.rows.len());
                self.rows.push(seat);
            }
        }
        for (from, to) in &turn.moves {
            self.rows.swap(*from, *to);
        }
        for (place, tokens) in self.rows.split_off(turn.live) {
            if self
                .schedule
                .put_back
                .iter()
                .any(|back| back.place == place)
            {
                self.put_back.insert((place.group, place.sample), tokens);
            }
        }
        let tables: Vec<Vec<u32>> = self.schedule.tables().iter().map(|t| t.to_vec()).collect();
        assert_eq!(tables.len(), self.rows.len());
        for (row, place) in turn.resumed {
            let tokens = self.rows[row].1;
            (0..tokens).for_each(|at| self.write(&tables[row], at, self.token(place, at)));
        }
    }

    /// Every row reads its own tokens, and draws up to `ahead` more.
    fn decode(&mut self, steps: usize) {
        let tables: Vec<Vec<u32>> = self.schedule.tables().iter().map(|t| t.to_vec()).collect();
        for _ in 0..steps {
            for (row, table) in tables.iter().enumerate() {
                let (place, tokens) = self.rows[row];
                self.write(table, tokens, self.token(place, tokens));
                self.rows[row].1 += 1;
            }
        }
        for (table, (place, tokens)) in tables.iter().zip(&self.rows) {
            for at in 0..*tokens {
                let found = self.cache[table[at / PAGE] as usize][at % PAGE];
                assert_eq!(found, Some(self.token(*place, at)), "{place:?} at {at}");
            }
        }
    }
}

/// Plays a request to its end and returns how it was played.
fn play(
    rows: usize,
    pages: u32,
    groups: &[(usize, usize)],
    lengths: &[usize],
    ahead: usize,
) -> Player {
    let completion_max = lengths.iter().copied().max().unwrap_or(1);
    let prompts: Vec<usize> = groups.iter().map(|group| group.0).collect();
    let samples: Vec<usize> = groups.iter().map(|group| group.1).collect();
    let sizes = PagedSizes {
        rows,
        pages,
        page_tokens: PAGE,
        completion_max,
    };
    let mut player = Player {
        schedule: PagedSchedule::new(sizes, prompts.clone(), &samples),
        prompts,
        cache: vec![[None; PAGE]; pages as usize],
        rows: vec![],
        put_back: BTreeMap::new(),
        started: vec![],
        prefills: 0,
    };
    let length = |place: Place| lengths[(place.group * 7 + place.sample) % lengths.len()];
    let mut ended = vec![];
    let mut turns = 0;
    loop {
        player.turn(&ended, ahead);
        turns += 1;
        assert!(turns < 10_000, "no progress");
        if player.rows.is_empty() {
            break;
        }
        let left = |row: &(Place, usize)| length(row.0) - (row.1 - player.prompts[row.0.group]);
        let steps = player.rows.iter().map(left).min().unwrap_or(0).min(ahead);
        player.decode(steps);
        let prompts = &player.prompts;
        let ends = |row: &(Place, usize)| row.1 - prompts[row.0.group] >= length(row.0);
        ended = (0..player.rows.len())
            .filter(|row| ends(&player.rows[*row]))
            .collect();
    }
    assert!(player.put_back.is_empty() && player.schedule.put_back.is_empty());
    assert_eq!(player.started.len(), samples.iter().sum::<usize>());
    assert_eq!(
        player.schedule.pages.free(),
        pages as usize,
        "pages were lost"
    );
    player
}

fn most_pages(groups: &[(usize, usize)], lengths: &[usize]) -> u32 {
    let longest = groups.iter().map(|group| group.0).max().unwrap_or(1);
    (longest + lengths.iter().max().unwrap_or(&1)).div_ceil(PAGE) as u32
}

#[test]
fn a_group_shares_the_whole_pages_of_its_prompt() {
    let sizes = PagedSizes {
        rows: 8,
        pages: 20,
        page_tokens: PAGE,
        completion_max: 8,
    };
    // A prompt of two whole pages and two tokens.
    let mut schedule = PagedSchedule::new(sizes, vec![10], &[3]);
    let turn = schedule.turn_over(&[], &[], 1);
    assert_eq!(turn.prefills, [(0, vec![2, 1, 0])]);
    assert_eq!(turn.started.len(), 3);
    let tables = schedule.tables();
    assert!(tables.iter().all(|pages| pages[..2] == [2, 1]));
    assert_eq!(turn.copies, [(0, tables[0][2]), (0, tables[1][2])]);
    assert_eq!(tables[2], [2, 1, 0], "the last takes the prompt's own page");
    assert_eq!(schedule.pages.free(), 20 - 5);
}

#[test]
fn rows_that_need_what_they_may_come_to_are_never_put_back() {
    let groups = [(10, 3), (3, 2), (8, 1), (5, 4)];
    let lengths = [9, 30, 2, 17];
    let rows = 4;
    let pages = rows as u32 * most_pages(&groups, &lengths);
    let player = play(rows, pages, &groups, &lengths, 3);
    assert_eq!(player.schedule.preemptions, 0);
    assert_eq!(
        player.prefills,
        groups.len(),
        "each prompt is computed once"
    );
}

#[test]
fn fewer_pages_hold_more_short_completions_at_a_time() {
    // 40 completions of which one is long: slots for the longest would be two.
    let mut lengths = [3; 41];
    lengths[20] = 100;
    let groups = [(4, 40)];
    let pages = 2 * most_pages(&groups, &lengths);
    let mut player = play(40, pages, &groups, &lengths, 2);
    assert_eq!(player.schedule.preemptions, 0);
    player = play(40, most_pages(&groups, &[100]) + 4, &groups, &[60, 100], 2);
    assert!(player.schedule.preemptions > 0, "pages are too few for two");
}

/// The row that started first is never put back.
#[test]
fn the_youngest_row_gives_up_its_pages() {
    let sizes = PagedSizes {
        rows: 3,
        pages: 6,
        page_tokens: PAGE,
        completion_max: 20,
    };
    let mut schedule = PagedSchedule::new(sizes, vec![4, 4], &[1, 1]);
    let turn = schedule.turn_over(&[], &[], 4);
    assert_eq!((turn.started.len(), schedule.pages.free()), (2, 2));
    let turn = schedule.turn_over(&[], &[8, 8], 4);
    assert_eq!((turn.live, schedule.pages.free()), (2, 0));
    let turn = schedule.turn_over(&[], &[12, 12], 4);
    let second = Place {
        group: 1,
        sample: 0,
    };
    assert_eq!((turn.live, schedule.preemptions), (1, 1));
    assert_eq!(schedule.put_back[0].place, second);
    assert_eq!(schedule.tables()[0].len(), 4);
    // No page is left over, and it needs four.
    let turn = schedule.turn_over(&[], &[16], 4);
    assert_eq!((turn.live, turn.resumed.len()), (1, 0));
    let turn = schedule.turn_over(&[0], &[20], 4);
    assert_eq!(turn.resumed, [(0, second)]);
    assert_eq!(schedule.tables()[0].len(), 4);
}

proptest! {
    #[test]
    fn every_sample_decodes_behind_its_own_prompt_whatever_the_pages(
        rows in 1usize..7,
        more in 0u32..60,
        groups in proptest::collection::vec((1usize..14, 0usize..6), 0..6),
        lengths in proptest::collection::vec(1usize..30, 1..20),
        ahead in 1usize..6,
    ) {
        let _ = play(rows, most_pages(&groups, &lengths) + more, &groups, &lengths, ahead);
    }
}
