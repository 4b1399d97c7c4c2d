//! Makes inputs from other inputs and a seed: the same in every run.

/// Pieces that have a meaning for one reader of a reward or another.
const PIECES: [&[u8]; 48] = [
    "{".as_bytes(),
    "}".as_bytes(),
    "(".as_bytes(),
    ")".as_bytes(),
    "[".as_bytes(),
    "]".as_bytes(),
    "\\".as_bytes(),
    "$".as_bytes(),
    "^".as_bytes(),
    "_".as_bytes(),
    "&".as_bytes(),
    "%".as_bytes(),
    "#### ".as_bytes(),
    "\\frac{".as_bytes(),
    "\\frac12".as_bytes(),
    "\\sqrt[3]{".as_bytes(),
    "\\boxed{".as_bytes(),
    "\\left(".as_bytes(),
    "\\right)".as_bytes(),
    "\\begin{pmatrix}".as_bytes(),
    "\\end{pmatrix}".as_bytes(),
    "\\text{".as_bytes(),
    "\\pi".as_bytes(),
    "\\infty".as_bytes(),
    "\\cup".as_bytes(),
    "\\pm".as_bytes(),
    "\\cdot".as_bytes(),
    "9^{9^{9}}".as_bytes(),
    "1e999".as_bytes(),
    "0.\\overline{3}".as_bytes(),
    "-".as_bytes(),
    "/".as_bytes(),
    "!".as_bytes(),
    "<think>".as_bytes(),
    "</think>".as_bytes(),
    "<answer>".as_bytes(),
    "</answer>".as_bytes(),
    "```python\n".as_bytes(),
    "\n".as_bytes(),
    "\0".as_bytes(),
    "\u{1b}".as_bytes(),
    "答案".as_bytes(),
    "\u{202e}".as_bytes(),
    "\u{200b}".as_bytes(),
    "e\u{301}".as_bytes(),
    "🦀".as_bytes(),
    "٣".as_bytes(),
    "½".as_bytes(),
];
const BYTES_MAX: usize = 4096;
const CHANGES_MAX: u64 = 6;

/// A splitmix64 generator, good enough to choose places and pieces by.
pub struct Random {
    state: u64,
    pieces: &'static [&'static [u8]],
    bytes_max: usize,
}

impl Random {
    /// Starts the generator from a seed.
    pub fn of(seed: u64) -> Random {
        Random::with(seed, &PIECES, BYTES_MAX)
    }

    /// Starts a generator that puts in these pieces, and makes inputs of at most `bytes_max` bytes.
    pub fn with(seed: u64, pieces: &'static [&'static [u8]], bytes_max: usize) -> Random {
        Random {
            state: seed,
            pieces,
            bytes_max,
        }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from 0 up to, but not including, `end`; 0 if `end` is 0.
    fn below(&mut self, end: usize) -> usize {
        (self.next() % (end.max(1) as u64)) as usize
    }

    fn of_all<'a, T: ?Sized>(&mut self, all: &[&'a T]) -> Option<&'a T> {
        all.get(self.below(all.len())).copied()
    }

    /// One of the seeds, changed in a few places.
    pub fn mutation(&mut self, seeds: &[&[u8]]) -> Vec<u8> {
        let mut bytes = self.of_all(seeds).unwrap_or_default().to_vec();
        for _ in 0..=self.next() % CHANGES_MAX {
            self.change(&mut bytes, seeds);
        }
        bytes.truncate(self.bytes_max);
        bytes
    }

    fn change(&mut self, bytes: &mut Vec<u8>, seeds: &[&[u8]]) {
        let start = self.below(bytes.len() + 1);
        let end = start + self.below((bytes.len() - start + 1).min(64));
        match self.next() % 7 {
            0 => bytes
                .iter_mut()
                .skip(start)
                .take(1)
                .for_each(|byte| *byte ^= 1 << (self.state % 8)),
            1 => drop(bytes.drain(start..end)),
            2 => drop(bytes.splice(
                start..end,
                self.of_all(self.pieces).unwrap_or_default().iter().copied(),
            )),
            3 => drop(bytes.splice(
                start..start,
                self.of_all(self.pieces).unwrap_or_default().iter().copied(),
            )),
            // Inserts a part of another seed.
            4 => {
                let other = self.of_all(seeds).unwrap_or_default();
                let from = self.below(other.len() + 1);
                let to = from + self.below(other.len() - from + 1);
                drop(bytes.splice(
                    start..end,
                    other.get(from..to).unwrap_or_default().iter().copied(),
                ));
            }
            // Repeats the input a few times.
            5 => {
                let piece = bytes
                    .get(start..end)
                    .unwrap_or_default()
                    .repeat(1 + self.below(8));
                drop(bytes.splice(start..start, piece));
            }
            _ => bytes.truncate(start),
        }
        bytes.truncate(self.bytes_max);
    }
}
