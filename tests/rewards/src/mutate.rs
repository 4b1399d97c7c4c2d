//! Makes inputs from other inputs and a seed: the same in every run.

/// Pieces that have a meaning for one parser or another.
const PIECES: [&str; 48] = [
    "{",
    "}",
    "(",
    ")",
    "[",
    "]",
    "\\",
    "$",
    "^",
    "_",
    "&",
    "%",
    "#### ",
    "\\frac{",
    "\\frac12",
    "\\sqrt[3]{",
    "\\boxed{",
    "\\left(",
    "\\right)",
    "\\begin{pmatrix}",
    "\\end{pmatrix}",
    "\\text{",
    "\\pi",
    "\\infty",
    "\\cup",
    "\\pm",
    "\\cdot",
    "9^{9^{9}}",
    "1e999",
    "0.\\overline{3}",
    "-",
    "/",
    "!",
    "<think>",
    "</think>",
    "<answer>",
    "</answer>",
    "```python\n",
    "\n",
    "\0",
    "\u{1b}",
    "答案",
    "\u{202e}",
    "\u{200b}",
    "e\u{301}",
    "🦀",
    "٣",
    "½",
];
const BYTES_MAX: usize = 4096;
const CHANGES_MAX: u64 = 6;

/// A splitmix64 generator, good enough to choose places and pieces by.
pub struct Random(u64);

impl Random {
    /// Starts the generator from a seed.
    pub fn of(seed: u64) -> Random {
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
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
        bytes.truncate(BYTES_MAX);
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
                .for_each(|byte| *byte ^= 1 << (self.0 % 8)),
            1 => drop(bytes.drain(start..end)),
            2 => drop(bytes.splice(start..end, self.of_all(&PIECES).unwrap_or_default().bytes())),
            3 => drop(bytes.splice(
                start..start,
                self.of_all(&PIECES).unwrap_or_default().bytes(),
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
        bytes.truncate(BYTES_MAX);
    }
}
