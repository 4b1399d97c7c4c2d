//! What sentences say of the letters of a multiple choice: `A is wrong, so B`, `not B but C`,
//! `选项B正确`.
//!
//! Each letter that a sentence names is chosen, refused, or only mentioned. A text chooses when it
//! chooses one letter, or several in one list, refuses none of them, and mentions no other but in
//! its reasons.

use crate::text::is_in;
use std::collections::BTreeSet;

/// Letters that choices have.
const LETTERS: std::ops::RangeInclusive<char> = 'A'..='J';

/// Words after which a letter is refused.
const NOT: &[&str] = &[
    "not",
    "never",
    "neither",
    "nor",
    "cannot",
    "than",
    "instead",
    "except",
    "excluding",
    "excludes",
    "eliminate",
    "eliminates",
    "eliminated",
    "eliminating",
    "reject",
    "rejects",
    "rejected",
    "discard",
    "discarded",
    "unlike",
    "over",
    "avoid",
    "without",
    "rule",
    "rules",
    "ruled",
];
/// Words that say of a letter that it is not the one.
const WRONG: &[&str] = &[
    "not",
    "never",
    "wrong",
    "incorrect",
    "false",
    "eliminated",
    "impossible",
    "invalid",
    "excluded",
    "out",
    "untrue",
    "rejected",
    "unlikely",
    "cannot",
    "fails",
    "fail",
    "bad",
];
/// Words that say of a letter that it is the one.
const RIGHT: &[&str] = &[
    "correct", "right", "true", "answer", "best", "it", "choice", "option", "solution", "one",
    "valid",
];
/// Words before a letter, anywhere in its clause, that take it back or leave it open.
const AGAINST: &[&str] = &[
    "wrong",
    "incorrect",
    "false",
    "worst",
    "untrue",
    "doubt",
    "doubts",
    "doubtful",
    "doubted",
    "unlikely",
    "uncertain",
    "unclear",
    "undecided",
    "whether",
    "wonder",
    "nobody",
    "hard",
    "contradiction",
    "improbable",
];
/// Words after which a letter is chosen.
const CUES: &[&str] = &[
    "is",
    "are",
    "be",
    "answer",
    "answers",
    "option",
    "options",
    "choice",
    "choices",
    "choose",
    "chose",
    "select",
    "selected",
    "pick",
    "picked",
    "so",
    "therefore",
    "thus",
    "hence",
    "but",
    "with",
    "it's",
    "that's",
    "mark",
    "leaving",
    "leaves",
];
/// Words between a cue and a letter.
const FILLERS: &[&str] = &[
    "option",
    "choice",
    "answer",
    "letter",
    "the",
    "clearly",
    "definitely",
    "only",
    "statement",
    "out",
    "of",
    "actually",
    "both",
];
const VERBS: &[&str] = &[
    "is", "are", "was", "were", "seems", "looks", "must", "be", "has",
];
/// Words that are said of a letter, so that an `A` before them is no article.
const SAID: &[&str] = &[
    "and",
    "or",
    "nor",
    "but",
    "not",
    "correct",
    "works",
    "holds",
    "cannot",
    "can",
    "isn",
    "does",
    "doesn",
    "fails",
    "satisfies",
    "meets",
    "fits",
    "matches",
    "gives",
    "leads",
    "contradicts",
    "violates",
    "equals",
    "would",
    "could",
    "may",
    "might",
    "should",
];
/// Words that introduce reasons.
const REASONS: &[&str] = &[
    "since", "because", "as", "for", "given", "where", "due", "因为", "由于",
];
/// Words that leave the choice open.
const DOUBTS: &[&str] = &[
    "either", "maybe", "perhaps", "possibly", "probably", "might", "may", "could", "unsure",
    "sure", "unclear", "unless", "wait", "no", "actually", "if", "如果", "若", "假如", "假设",
];

#[derive(Clone, Debug, PartialEq)]
enum Stretch {
    Letter(char),
    /// A word in lower case; a run of Chinese characters is one word.
    Word(String),
    Mark(char),
}

/// Whether the last words ask for the choice that follows: `故选:`.
fn ends_with_cue(found: &[Stretch]) -> bool {
    match found {
        [.., Stretch::Word(cue), Stretch::Mark(':' | '：')] => {
            ["选", "选择", "答案"].iter().any(|end| cue.ends_with(end))
        }
        _ => false,
    }
}

/// The letters that a text chooses.
pub(crate) fn chosen(text: &str) -> Option<BTreeSet<char>> {
    let pieces = apposed(pieces(text));
    chosen_of(&pieces)
        .or_else(|| chosen_of(&without_options(&pieces)?))
        .or_else(|| concluded(&pieces))
}

/// What the last clause concludes from reasons that refuse other letters, or say something else of
/// them: `A is too small and C is too large, so the answer is B`, `A and C are eliminated. B`.
/// Reasons that choose another letter, or refuse the concluded one, leave it open.
fn concluded(pieces: &[Stretch]) -> Option<BTreeSet<char>> {
    let concludes = |piece: &Stretch| {
        word(piece).is_some_and(|word| {
            matches!(word, "so" | "therefore" | "thus" | "hence")
                || ["所以", "因此", "故"]
                    .iter()
                    .any(|cue| word.starts_with(cue))
        })
    };
    let gives_reason = pieces
        .first()
        .and_then(word)
        .is_some_and(|word| matches!(word, "since" | "because" | "as"));
    let comma = || {
        pieces
            .iter()
            .rposition(|piece| matches!(piece, Stretch::Mark(',' | '，')))
            .filter(|_| gives_reason)
    };
    // A letter alone behind a full stop.
    let alone = || match pieces {
        [.., Stretch::Mark('.' | '。'), Stretch::Letter(_)] => Some(pieces.len() - 1),
        _ => None,
    };
    let at = pieces.iter().rposition(concludes).or_else(comma);
    let (reasons, conclusion) = pieces.split_at_checked(at.or_else(alone)?)?;
    let conclusion = if matches!(conclusion, [Stretch::Mark(_), ..]) {
        conclusion.get(1..)?
    } else {
        conclusion
    };
    let chosen = chosen_of(conclusion)?;
    let conditional = |piece: &Stretch| word(piece).is_some_and(|word| is_in(DOUBTS, word));
    if reasons.iter().any(conditional) {
        return None;
    }
    let mut at = 0;
    while at < reasons.len() {
        if !matches!(reasons.get(at), Some(Stretch::Letter(_))) {
            at += 1;
            continue;
        }
        let (letters, _, end) = group(reasons, at);
        let said = said_of(reasons, at, end);
        let open = match said {
            Some(true) => letters != chosen,
            Some(false) => !letters.is_disjoint(&chosen),
            None => false,
        };
        // Where no word concludes, the others are to be refused.
        if open || (said.is_none() && !gives_reason && !pieces.iter().any(concludes)) {
            return None;
        }
        at = end;
    }
    Some(chosen)
}

/// `the fourth option, D` as `the fourth option D`, where D is the fourth.
fn apposed(mut pieces: Vec<Stretch>) -> Vec<Stretch> {
    const ORDINALS: [&str; 6] = ["first", "second", "third", "fourth", "fifth", "sixth"];
    let is_apposition = |four: &[Stretch]| match four {
        [
            Stretch::Word(ordinal),
            Stretch::Word(noun),
            Stretch::Mark(',' | ':'),
            Stretch::Letter(letter),
        ] => {
            matches!(
                noun.as_str(),
                "option" | "choice" | "answer" | "one" | "statement"
            ) && ORDINALS
                .iter()
                .zip(LETTERS)
                .any(|(name, own)| name == ordinal && own == *letter)
        }
        _ => false,
    };
    if let Some(at) = pieces.windows(4).position(is_apposition) {
        pieces.remove(at + 2);
    }
    pieces
}

/// Takes off a list of all the options before the choice itself:
/// `A) 3, B) 4, C) 5. The answer is C`, `Among A, B and C, …`; `None` without such a list, and
/// where the list judges the options.
fn without_options(pieces: &[Stretch]) -> Option<Vec<Stretch>> {
    let first = pieces
        .iter()
        .position(|piece| *piece == Stretch::Letter('A'))?;
    let mark = match pieces.get(first + 1)? {
        Stretch::Mark(mark @ (')' | '.' | ':')) => Some(*mark),
        _ => None,
    };
    // What stands behind the last letter of the list.
    let mut behind = first;
    let mut count = 0;
    for letter in LETTERS {
        let begins = |at: &usize| {
            pieces.get(*at) == Some(&Stretch::Letter(letter))
                && mark.is_none_or(|mark| pieces.get(at + 1) == Some(&Stretch::Mark(mark)))
        };
        let between = |at: usize| {
            mark.is_some()
                || pieces
                    .get(behind..at)
                    .is_some_and(|parts| parts.iter().all(joins))
        };
        let Some(at) = (behind..pieces.len())
            .find(begins)
            .filter(|at| between(*at))
        else {
            break;
        };
        behind = at + 1;
        count += 1;
    }
    let introduced = || {
        let before = pieces
            .get(..first)
            .unwrap_or_default()
            .iter()
            .rev()
            .filter_map(word)
            .take(3);
        before.into_iter().any(|word| {
            matches!(
                word,
                "options" | "choices" | "among" | "of" | "from" | "between" | "选项"
            )
        })
    };
    if count < 2 || (mark.is_none() && !introduced()) {
        return None;
    }
    let concludes = |piece: &Stretch| {
        matches!(piece, Stretch::Word(word) if matches!(word.as_str(), "so" | "therefore" | "thus" |
            "hence" |
            "the" |
            "my" |
            "i" |
            "it" |
            "only")
            || word.contains('选') || word.contains("答案") || word.contains("所以"))
    };
    let ends = |at: &usize| match pieces.get(*at) {
        Some(Stretch::Mark('.' | ';' | '。' | '；')) => {
            *at > behind
                && !matches!(pieces.get(at + 1),
                    Some(Stretch::Word(word)) if word.starts_with(|c: char| c.is_ascii_digit()))
        }
        Some(Stretch::Mark(',' | '，')) => mark.is_none(),
        Some(piece) => concludes(piece),
        None => true,
    };
    let end = if mark.is_none() && matches!(pieces.get(behind), Some(Stretch::Mark('.'))) {
        behind
    } else {
        (behind..=pieces.len()).find(ends)?
    };
    let listed = pieces.get(first..end)?;
    let judges = |word: &str| {
        is_in(VERBS, word)
            || is_in(NOT, word)
            || is_in(WRONG, word)
            || is_in(RIGHT, word)
            || word.contains(['错', '对', '不'])
    };
    if listed.iter().filter_map(word).any(judges) {
        return None;
    }
    let open = usize::from(first > 0 && pieces.get(first - 1) == Some(&Stretch::Mark('(')));
    let before = pieces.get(..first - open)?.iter();
    Some(
        before
            .chain([&Stretch::Mark('.')])
            .chain(pieces.get(end..)?)
            .cloned()
            .collect(),
    )
}

/// Whether it stands between the letters of one list.
fn joins(piece: &Stretch) -> bool {
    match piece {
        Stretch::Mark(mark) => matches!(mark, ',' | '、' | '，'),
        Stretch::Word(word) => matches!(word.as_str(), "and" | "or" | "和"),
        Stretch::Letter(_) => false,
    }
}

fn chosen_of(pieces: &[Stretch]) -> Option<BTreeSet<char>> {
    let doubts = |piece: &Stretch| match piece {
        Stretch::Word(word) => is_in(DOUBTS, word.as_str()),
        Stretch::Mark(mark) => matches!(mark, '?' | '？'),
        Stretch::Letter(_) => false,
    };
    if pieces.iter().any(doubts) {
        return None;
    }
    let mut chosen: Option<BTreeSet<char>> = None;
    let mut refused = BTreeSet::new();
    let mut reasons = false;
    let mut at = 0;
    while let Some(piece) = pieces.get(at) {
        if let Stretch::Word(word) = piece
            && is_in(REASONS, word.as_str())
        {
            reasons |= chosen.is_some();
        }
        if !matches!(piece, Stretch::Letter(_)) {
            at += 1;
            continue;
        }
        let (letters, either, end) = group(pieces, at);
        match said_of(pieces, at, end) {
            Some(false) => refused.extend(letters),
            // Two choices, and `A or B`, are none.
            Some(true) if either || chosen.as_ref().is_some_and(|before| *before != letters) => {
                return None;
            }
            Some(true) => chosen = Some(letters),
            None if reasons => {}
            None => return None,
        }
        at = end;
    }
    chosen.filter(|letters| letters.is_disjoint(&refused))
}

/// Whether what stands behind an option's letter speaks of choices, rather than saying what the
/// option is.
pub(crate) fn speaks_of_choices(text: &str) -> bool {
    let pieces = pieces(text);
    let begins = match pieces
        .iter()
        .find(|piece| !matches!(piece, Stretch::Mark(_)))
    {
        Some(Stretch::Word(word)) => {
            let word = word.as_str();
            is_in(VERBS, word)
                || is_in(NOT, word)
                || matches!(word, "or" | "and")
                || word.ends_with("n't")
                || ["是", "不", "错", "正确", "选项", "对"]
                    .iter()
                    .any(|said| word.starts_with(said))
        }
        Some(Stretch::Letter(_)) => true,
        _ => false,
    };
    let judges = |piece: &Stretch| {
        matches!(piece, Stretch::Word(word) if matches!(word.as_str(),
        "wrong" |
        "incorrect" |
        "actually" |
        "instead" |
        "wait" |
        "错误"))
    };
    // `(C)`, `C)`: another option; `f(C)` is none.
    let option = pieces.windows(3).any(|three| {
        matches!(three,
        [before, Stretch::Letter(_), Stretch::Mark(')')] if !matches!(before,
        Stretch::Word(word) if word.len() == 1 && word.starts_with(char::is_alphabetic)))
    });
    // `B. The answer is C`
    let names_answer = || {
        pieces
            .iter()
            .any(|piece| matches!(piece, Stretch::Letter(_)))
            && pieces.iter().filter_map(word).any(|word| {
                matches!(word, "answer" | "option" | "choice" | "correct")
                    || word.contains('选')
                    || word.contains("答案")
            })
    };
    begins || names_answer() || pieces.iter().any(judges) || (option && !applied(text))
}

/// Whether brackets stand behind letters only, as a function's do: `f(A)`.
fn applied(text: &str) -> bool {
    let behind_letter = |at: usize| {
        text.get(..at)
            .is_some_and(|before| before.ends_with(|c: char| c.is_ascii_alphabetic()))
    };
    text.contains('(') && text.match_indices('(').all(|(at, _)| behind_letter(at))
}

fn pieces(text: &str) -> Vec<Stretch> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let han = |c: char| matches!(c, '\u{4e00}'..='\u{9fff}');
        let part: fn(char) -> bool = if han(c) {
            |c| matches!(c, '\u{4e00}'..='\u{9fff}')
        } else if c.is_alphanumeric() {
            |c| {
                (c.is_alphanumeric() || matches!(c, '\'' | '’'))
                    && !matches!(c, '\u{4e00}'..='\u{9fff}')
            }
        } else {
            |_| false
        };
        let end = rest
            .find(|c| !part(c))
            .unwrap_or(rest.len())
            .max(c.len_utf8());
        let (word, after) = rest.split_at(end);
        rest = after;
        let alone = word.chars().count() == 1;
        match c {
            _ if c.is_whitespace() => {}
            _ if !c.is_alphanumeric() => found.push(Stretch::Mark(c)),
            _ if alone
                && LETTERS.contains(&c.to_ascii_uppercase())
                && is_mention(c, &found, rest) =>
            {
                found.push(Stretch::Letter(c.to_ascii_uppercase()));
            }
            // `故选AC`
            _ if of_choices(word)
                && matches!(found.last(), Some(Stretch::Word(cue)) if ["选", "选择", "答案", "答案是",
                    "答案为"]
                    .iter().any(|end| cue.ends_with(end))) =>
            {
                found.extend(word.chars().map(Stretch::Letter));
            }
            // `故选:AC`
            _ if of_choices(word) && ends_with_cue(&found) => {
                found.extend(word.chars().map(Stretch::Letter));
            }
            _ => found.push(Stretch::Word(word.to_lowercase().replace('’', "'"))),
        }
    }
    found
}

/// Several letters, as sets of choices are written: `ACD`.
fn of_choices(word: &str) -> bool {
    const LETTERS_MAX: usize = 6;
    (2..=LETTERS_MAX).contains(&word.len())
        && word.bytes().all(|letter| (b'A'..=b'H').contains(&letter))
        && word
            .as_bytes()
            .windows(2)
            .all(|pair| pair.first() < pair.last())
}

/// Whether a letter alone is an option rather than a word: `A` in `A dog`, `I`, the `a` of
/// `is a number` are words.
fn is_mention(letter: char, before: &[Stretch], after: &str) -> bool {
    // `A(1, 2)` is a point, `A = 5` an equation.
    if after.starts_with('(')
        || after.trim_start().starts_with([
            '=', '<', '>', '^', '_', '+', '/', '|', '~', '\u{2264}', '\u{2265}',
        ])
    {
        return false;
    }
    let ends = !after.trim_start().starts_with(char::is_alphanumeric);
    if letter.is_ascii_lowercase() || letter == 'I' {
        let cued = match before.last() {
            Some(Stretch::Mark('(')) => after.starts_with(')'),
            Some(Stretch::Word(word)) => is_in(CUES, word.as_str()) || word == "not",
            _ => false,
        };
        return ends && cued;
    }
    let next: String = after
        .trim_start()
        .chars()
        .take_while(|c| c.is_alphabetic())
        .collect();
    let said = |word: &str| is_in(VERBS, word) || is_in(REASONS, word) || is_in(SAID, word);
    letter != 'A' || ends || !next.is_ascii() || said(&next.to_lowercase())
}

/// Letters in one list, whether `or` is among them, and where it ends.
fn group(pieces: &[Stretch], start: usize) -> (BTreeSet<char>, bool, usize) {
    let mut letters = BTreeSet::new();
    let (mut either, mut end) = (false, start);
    let mut at = start;
    let mut or = false;
    while let Some(piece) = pieces.get(at) {
        match piece {
            Stretch::Letter(letter) => {
                letters.insert(*letter);
                either |= or;
                end = at + 1;
            }
            // `选B，A、C错误`: what stands behind the comma is another clause.
            Stretch::Mark(',' | '，')
                if end > start && is_cued(pieces, start) && said_wrong(pieces, at + 1) =>
            {
                break;
            }
            Stretch::Mark(',' | '、' | '(' | ')' | '，') => {}
            Stretch::Word(word)
                if matches!(word.as_str(), "and" | "option" | "options" | "choice") => {}
            Stretch::Word(word) if matches!(word.as_str(), "or" | "nor" | "或") => or = true,
            _ => break,
        }
        at += 1;
    }
    // `A, or another`
    let dangling = matches!(pieces.get(end), Some(Stretch::Word(word)) if word == "or")
        || matches!((pieces.get(end), pieces.get(end + 1)),
            (Some(Stretch::Mark(_)), Some(Stretch::Word(word))) if word ==
            "or");
    (letters, either || dangling, end)
}

/// Whether a Chinese word that chooses stands before a letter: `故选B`.
fn is_cued(pieces: &[Stretch], at: usize) -> bool {
    let cue = at
        .checked_sub(1)
        .and_then(|before| pieces.get(before))
        .and_then(word);
    cue.is_some_and(|cue| {
        ["选", "选择", "答案", "是", "为"]
            .iter()
            .any(|end| cue.ends_with(end))
    })
}

/// Whether the letters that begin here are said to be wrong, in Chinese.
fn said_wrong(pieces: &[Stretch], at: usize) -> bool {
    let mut behind = pieces.iter().skip(at).skip_while(|piece| match piece {
        Stretch::Letter(_) | Stretch::Mark('、' | ',') => true,
        Stretch::Word(word) => matches!(word.as_str(), "and" | "项" | "选项"),
        _ => false,
    });
    matches!(behind.next(), Some(Stretch::Word(word)) if ["错", "不", "均错", "都错", "均不", "都不", "项错",
        "有误",
        "选项错"].iter().any(|said| word.starts_with(said)))
}

/// Tells how the letters between two places are meant: chosen, refused, or neither.
fn said_of(pieces: &[Stretch], start: usize, end: usize) -> Option<bool> {
    let clause =
        |piece: &&Stretch| !matches!(piece, Stretch::Mark('.' | ',' | ';' | '，' | '。' | '；'));
    let before: Vec<&str> = pieces
        .get(..start)?
        .iter()
        .rev()
        .take_while(clause)
        .filter_map(word)
        .collect();
    // `B. is wrong`
    let marked = matches!((pieces.get(end), pieces.get(end + 1)),
        (Some(Stretch::Mark('.')), Some(Stretch::Word(word))) if is_in(VERBS, word.as_str()));
    let after: Vec<&str> = pieces
        .get(end + usize::from(marked)..)?
        .iter()
        .take_while(clause)
        .filter_map(word)
        .collect();
    if let Some(said) = in_chinese(&before, &after) {
        return said;
    }
    // `B is not correct`, `B isn't it`
    let contracted =
        |word: &str| word.ends_with("n't") || matches!(word, "cannot" | "fails" | "fail");
    // `A, B and C all fail`
    let verb = after
        .iter()
        .find(|word| !matches!(**word, "all" | "both"))
        .is_some_and(|word| {
            is_in(VERBS, word) || contracted(word) || matches!(*word, "can" | "does" | "do")
        });
    let about = |words: &[&str]| {
        after
            .iter()
            .take(6)
            .take_while(|word| !is_in(REASONS, word))
            .any(|word| words.contains(word) || (words.len() == WRONG.len() && contracted(word)))
    };
    if verb && about(WRONG) {
        return Some(false);
    }
    let nearest = before.iter().find(|word| !is_in(FILLERS, word)).copied();
    // `not B`, `is not the option B`, `instead of B`, `It isn't B`
    if nearest == Some("but") {
        let of_all = before.iter().any(|word| {
            matches!(
                *word,
                "all" | "any" | "anything" | "everything" | "every" | "nothing" | "none"
            )
        });
        let denies = before
            .iter()
            .any(|word| is_in(NOT, word) || word.ends_with("n't"));
        // `Not A, but C`
        let parted = || {
            let earlier = pieces.get(..start).unwrap_or_default();
            before.len() == 1
                && matches!(earlier, [.., Stretch::Letter(_), Stretch::Mark(','), _])
                && earlier
                    .first()
                    .and_then(word)
                    .is_some_and(|word| word == "not")
        };
        return if of_all {
            Some(false)
        } else {
            (denies || parted()).then_some(true)
        };
    }
    let denied = before
        .iter()
        .take(4)
        .take_while(|word| !matches!(**word, "but" | "so"))
        .any(|word| is_in(NOT, word) || word.ends_with("n't"));
    // `The wrong option is B`
    let of_wrong = before.iter().any(|word| is_in(AGAINST, word));
    if denied || of_wrong {
        return Some(false);
    }
    if verb {
        return about(RIGHT).then_some(true);
    }
    if nearest.is_some_and(|word| is_in(CUES, word))
        || before.first().is_some_and(|word| is_in(CUES, word))
    {
        return Some(true);
    }
    // `Only B satisfies the condition`
    let meets = matches!(
        after.first(),
        Some(&("satisfies" | "meets" | "fits" | "matches"))
    ) && before.iter().all(|word| {
        matches!(
            *word,
            "only" | "therefore" | "so" | "thus" | "hence" | "option" | "choice"
        )
    }) && !after.iter().any(|word| {
        is_in(NOT, word)
            || is_in(WRONG, word)
            || matches!(
                *word,
                "no" | "none"
                    | "nothing"
                    | "only"
                    | "partly"
                    | "partially"
                    | "hardly"
                    | "barely"
                    | "some"
                    | "half"
            )
    });
    let right = meets
        || after
            .first()
            .is_some_and(|word| matches!(*word, "correct" | "works" | "holds"));
    // `B, since …`, `B (twelve)`
    const CONCLUDING: [&str; 7] = [
        "both",
        "therefore",
        "so",
        "thus",
        "hence",
        "finally",
        "then",
    ];
    let concluding = |piece: &Stretch| {
        word(piece).is_none_or(|word| is_in(&CONCLUDING, word))
            && !matches!(piece, Stretch::Letter(_))
    };
    let first = pieces.get(..start)?.iter().all(concluding);
    let parted = match pieces.get(end) {
        None | Some(Stretch::Mark(',' | '.' | ':' | ';' | '(' | ')' | ']' | '，' | '。')) => true,
        Some(Stretch::Mark(_)) => false,
        Some(Stretch::Word(word)) => {
            is_in(REASONS, word.as_str()) || matches!(word.as_str(), "rather" | "not" | "instead")
        }
        Some(Stretch::Letter(_)) => false,
    };
    (right || (first && parted)).then_some(true)
}

fn word(piece: &Stretch) -> Option<&str> {
    match piece {
        Stretch::Word(word) => Some(word),
        _ => None,
    }
}

/// Tells the same from the Chinese words beside the letters; the outer `None` where there are no
/// such words.
fn in_chinese(before: &[&str], after: &[&str]) -> Option<Option<bool>> {
    let han = |word: &&&str| word.starts_with(|c: char| matches!(c, '\u{4e00}'..='\u{9fff}'));
    let (before, after) = (
        before.first().filter(han).copied().unwrap_or_default(),
        after.first().filter(han).copied().unwrap_or_default(),
    );
    if before.is_empty() && after.is_empty() {
        return None;
    }
    let any = |word: &str, parts: &[&str]| parts.iter().any(|part| word.contains(part));
    let begins = after
        .strip_prefix("选项")
        .or_else(|| after.strip_prefix("项"))
        .unwrap_or(after);
    let begins = begins.strip_prefix(['是', '均', '都']).unwrap_or(begins);
    let begins = begins.strip_prefix('被').unwrap_or(begins);
    if ["错", "不", "有误", "无", "排除", "除", "则", "矛盾", "难"]
        .iter()
        .any(|said| begins.starts_with(said))
        || any(
            before,
            &[
                "不", "排除", "除", "非", "错", "没", "若", "如果", "难", "怀疑", "谁",
            ],
        )
    {
        return Some(Some(false));
    }
    let chosen = [
        "选", "选择", "选项", "答案", "是", "为", "的有", "故", "所以", "因此", "应该",
    ]
    .iter()
    .any(|cue| before.ends_with(cue));
    if chosen
        || ["正确", "对", "符合", "满足", "成立"]
            .iter()
            .any(|said| begins.starts_with(said))
    {
        return Some(Some(true));
    }
    Some(None)
}
