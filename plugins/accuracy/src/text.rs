//! Answers in words.

use crate::expression::Expr;

/// Letters of a text that make it what it is: lower case, without punctuation and articles.
fn plain(text: &str) -> String {
    let mut words: Vec<String> =
        text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).map(str::to_lowercase).collect();
    if words.len() > 1 && words.first().is_some_and(|word| matches!(word.as_str(), "the" | "a" | "an")) {
        words.remove(0);
    }
    words.join(" ")
}

/// The letters of an expression that may be a word: `\text{odd}`, `odd` read as a product of variables.
pub fn letters(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Text(text) | Expr::Symbol(text) => Some(text.clone()),
        Expr::Euler => Some("e".into()),
        Expr::Imaginary => Some("i".into()),
        Expr::Product(factors) => factors.iter().map(|factor| letters(factor).filter(|text| text.chars().count() == 1)).collect(),
        _ => None,
    }
}

/// Whether two texts say the same.
pub fn same(a: &str, b: &str) -> bool {
    let (a, b) = (plain(a), plain(b));
    if a.is_empty() || b.is_empty() {
        return false;
    }
    let missing = |text: &str| matches!(text, "dne" | "does not exist");
    a == b || (missing(&a) && missing(&b)) || a.replace(' ', "") == b.replace(' ', "") || (says_nothing(&a) && says_nothing(&b))
}

/// That there is no solution.
pub fn says_nothing(text: &str) -> bool {
    const SPELLINGS: [&str; 9] = [
        "no solution",
        "no solutions",
        "no real solution",
        "no real solutions",
        "none",
        "empty set",
        "there is no solution",
        "there are no solutions",
        "no such values exist",
    ];
    SPELLINGS.contains(&plain(text).as_str())
}

/// That everything is a solution.
pub fn says_all_reals(text: &str) -> bool {
    const SPELLINGS: [&str; 4] = ["all real numbers", "all reals", "all real", "real numbers"];
    SPELLINGS.contains(&plain(text).as_str())
}

/// A number in words. Neither a numeral nor a text to compare: data that spell one out are left out.
pub fn is_numeral(text: &str) -> bool {
    const WORDS: [&str; 32] = [
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
        "twenty",
        "thirty",
        "forty",
        "fifty",
        "sixty",
        "seventy",
        "eighty",
        "ninety",
        "hundred",
        "thousand",
        "million",
        "half",
    ];
    let plain = plain(text);
    !plain.is_empty() && plain.split(' ').all(|word| WORDS.contains(&word) || word == "and")
}
