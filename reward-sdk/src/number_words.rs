//! The English words that numbers are made of, in lower case: one list for all who read or refuse
//! them.

/// Zero to nineteen, each at the place that it names.
pub const SMALL: [&str; 20] = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
];

/// Twenty to ninety.
pub const TENS: [&str; 8] = [
    "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety",
];

/// Words that multiply what stands before them, and by how much; `hundred` is read within them.
pub const SCALES: [(&str, u64); 4] = [
    ("thousand", 1_000),
    ("million", 1_000_000),
    ("billion", 1_000_000_000),
    ("trillion", 1_000_000_000_000),
];

/// Parts of one, and how many of each make one.
pub const PARTS: [(&str, u64); 18] = [
    ("half", 2),
    ("third", 3),
    ("quarter", 4),
    ("fourth", 4),
    ("fifth", 5),
    ("sixth", 6),
    ("seventh", 7),
    ("eighth", 8),
    ("ninth", 9),
    ("tenth", 10),
    ("eleventh", 11),
    ("twelfth", 12),
    ("sixteenth", 16),
    ("twentieth", 20),
    ("hundredth", 100),
    ("thousandth", 1_000),
    ("millionth", 1_000_000),
    ("billionth", 1_000_000_000),
];

/// Whether whole numbers are made of a word: `seven`, `forty`, `hundred`.
pub fn is_whole(word: &str) -> bool {
    SMALL.contains(&word)
        || TENS.contains(&word)
        || word == "hundred"
        || SCALES.iter().any(|(name, _)| *name == word)
}

/// How many of a part make one: 3 for `third`; `None` for a word that is no part.
pub fn parts_in_one(word: &str) -> Option<u64> {
    PARTS
        .iter()
        .find(|(name, _)| *name == word)
        .map(|(_, count)| *count)
}
