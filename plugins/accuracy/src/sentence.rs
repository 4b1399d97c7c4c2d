//! The value that a sentence states: `The total is 68 clips, altogether.` → `68 clips`.
//!
//! Only the words before and behind the value are taken off, and only where none of them changes it
//! or says that it is another ([`changes_number`]). What is left is read as any answer is.
//!
//! Words that deny, doubt, limit or compare are enumerated ([`words`]), verbs only where the value
//! is a number alone: in `Julie should read 42 pages` whatever stands before the number is a verb,
//! unless it is of a closed kind, or a label (`page 42`).

mod words;

use crate::chinese;
use crate::names::is_function;
use crate::text::is_in;
use crate::{spelled, text};
use reward_sdk::number_words;
use reward_sdk::units::{self, changes_number};
use words::{
    ADVERBS, AFTER, ALONE, BEFORE, BEFORE_LETTERS, CIRCUMSTANCES, CLOSING, CONNECTED, DENIALS,
    DENYING, DERIVED, HOLDERS, MADE_OF, MODIFIERS, NO_VERBS, OF, OTHER_TIMES, POINTING, STATING,
};

/// Longer texts are essays.
const BYTES_MAX: usize = 300;
/// More words than a number in words has.
const WORDS_MAX: usize = 8;

/// The value that a text states, in the text's own writing; `None` where it is no sentence, or one
/// that says something else of it.
pub(crate) fn value(text: &str) -> Option<String> {
    let words = |text: &str| text.contains(|c: char| matches!(c, ' ' | ',') || !c.is_ascii());
    if text.len() > BYTES_MAX || !words(text) || text.contains(['?', '？', '\n']) {
        return None;
    }
    let text = text
        .trim()
        .trim_end_matches(['.', '!', '。', '！'])
        .trim_end();
    if text.contains("**") || text.contains("\\(") {
        return value(
            &text
                .replace("**", "")
                .replace("\\(", "$")
                .replace("\\)", "$"),
        );
    }
    let text = text
        .strip_suffix(" left over")
        .or_else(|| text.strip_suffix(" leftover"))
        .unwrap_or(text);
    if let Some(value) = before_reason(text) {
        return Some(value.to_string());
    }
    if let Some(conclusion) = concluded(text) {
        return self::value(conclusion).or_else(|| Some(conclusion.to_string()));
    }
    // `小明有5个`, `k的值为-3`
    if text.trim_start_matches(is_named).starts_with(is_han)
        && (text.starts_with(is_han) || text.contains('的'))
    {
        return in_chinese(text);
    }
    let (lead, rest) = led(text)?;
    let rest = closed(rest);
    let figured = counted(rest);
    let rest = figured.as_deref().unwrap_or(rest);
    let rest = attained(text, rest).unwrap_or(rest);
    let rounded = rounded(rest);
    let rest = rounded.as_deref().unwrap_or(rest);
    if compares(rest) {
        return None;
    }
    let rest = if lead.is_empty() && rest.len() == text.len() {
        rest
    } else {
        without_circumstances(rest)
    };
    let rest = without_predicate(rest).unwrap_or(rest);
    (!rest.is_empty() && (rest != text || !lead.is_empty())).then(|| format!("{lead}{rest}"))
}

/// A number in words before what is counted, in figures: `eleven candies` → `11 candies`; `None`
/// for any other text, and where the words behind change the number.
fn counted(text: &str) -> Option<String> {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        .then_some(())?;
    let numeral = |end: usize| spelled::numeral(text.get(..end)?).map(|numeral| (end, numeral));
    let (end, number) = text
        .match_indices(' ')
        .take(WORDS_MAX)
        .filter_map(|(end, _)| numeral(end))
        .last()?;
    let thing = text.get(end..)?.trim_start();
    let pronoun = number == "1" && thing.starts_with("of ");
    let figured = format!("{number} {thing}");
    let bare = without_circumstances(&figured);
    let bare = without_predicate(bare).unwrap_or(bare);
    let counts = bare
        .get(number.len()..)
        .is_some_and(|thing| units::read(thing).is_some());
    (counts && !pronoun).then_some(figured)
}

/// Whether a number is a multiple or a rate of something else: `3 times the old volume`, `3 per
/// class`.
fn compares(text: &str) -> bool {
    const COUNTING: [&str; 12] = [
        "a",
        "an",
        "in",
        "each",
        "every",
        "altogether",
        "during",
        "on",
        "this",
        "today",
        "left",
        "total",
    ];
    let mut words = text.split_whitespace().skip(1);
    match (words.next(), words.next()) {
        (Some("times"), Some(next)) => !is_in(&COUNTING, next),
        (Some("more"), None) | (Some("in"), Some("it")) => true,
        _ if text.ends_with("in the red") => true,
        (Some("per"), Some(unit)) => !units::is_known(unit),
        _ => false,
    }
}

/// A greatest or least value without where it is attained: `9, attained at x = 2` → `9`.
fn attained<'t>(sentence: &str, text: &'t str) -> Option<&'t str> {
    const EXTREME: [&str; 10] = [
        "maxim", "minim", "greatest", "least", "largest", "smallest", "highest", "lowest",
        "biggest", "extrem",
    ];
    const MARKS: &[&str] = &[
        ", and it ",
        ", attained ",
        ", achieved ",
        ", reached ",
        ", obtained ",
        ", occurring ",
        ", which ",
        ", when ",
        ", where ",
        ", at ",
        " attained ",
        " achieved ",
        " reached ",
        " when ",
        " at ",
    ];
    const SAID: &[&str] = &[
        "attained",
        "achieved",
        "reached",
        "obtained",
        "occurring",
        "occurs",
        "happens",
        "which",
        "is",
        "it",
        "this",
        "at",
        "when",
        "where",
        "the",
        "point",
        "for",
        "and",
        "only",
        "equality",
        "holds",
        "with",
        "if",
        "value",
        "minimum",
        "maximum",
        "least",
        "greatest",
        "smallest",
        "largest",
        "answer",
    ];
    let lower = sentence.to_ascii_lowercase();
    EXTREME
        .iter()
        .any(|word| lower.contains(word))
        .then_some(())?;
    let at = MARKS.iter().filter_map(|mark| text.find(mark)).min()?;
    let (value, said) = text.split_at_checked(at)?;
    let plain = said
        .split(|c: char| !c.is_ascii_alphabetic())
        .filter(|word| word.len() > 1)
        .all(|word| {
            is_in(SAID, word)
                || matches!(
                    word,
                    "frac" | "sqrt" | "left" | "right" | "dfrac" | "pi" | "ln"
                )
        });
    let shown = (said.contains(['=', '(']) || said.starts_with(", which is the "))
        && !said.contains(['<', '>', '?'])
        && said.is_ascii();
    let numeral = value.contains(|c: char| c.is_ascii_digit())
        && value
            .trim_end()
            .ends_with(|c: char| c.is_ascii_digit() || matches!(c, '$' | '}' | ')'))
        && !value.contains('=');
    (plain && shown && numeral).then(|| value.trim_end())
}

/// A value with its decimals, which words say are rounded: `\frac{5}{12}, or about 0.417` →
/// `\frac{5}{12} \approx 0.417`.
fn rounded(text: &str) -> Option<String> {
    let (value, decimals) = [
        ", or about ",
        " or about ",
        ", or approximately ",
        " or approximately ",
        ", or roughly ",
        ", about ",
        ", approximately ",
    ]
    .iter()
    .find_map(|words| text.split_once(words))?;
    let decimals = reward_sdk::number::unwrap(decimals);
    let figures = !decimals.is_empty()
        && decimals
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b'.' || byte == b'%' || byte == b'\\');
    let value = reward_sdk::number::unwrap(value);
    (figures && decimals.contains(|c: char| c.is_ascii_digit()) && !value.contains(','))
        .then(|| format!("{value} \\approx {decimals}"))
}

/// What stands before a reason in brackets: `14 (because 7 + 7 = 14)` → `14`; `None` for a reason
/// that denies something.
fn before_reason(text: &str) -> Option<&str> {
    let (before, reason) = text.strip_suffix(')')?.rsplit_once('(')?;
    let mut words = reason
        .split(|c: char| !c.is_alphabetic() && c != '\'')
        .filter(|word| !word.is_empty());
    let begins = words
        .next()
        .is_some_and(|word| matches!(word, "because" | "since" | "as"));
    (begins && words.all(|word| !word.ends_with("n't") && !is_denial(&word.to_lowercase())))
        .then(|| before.trim())
}

/// Whether words before an equation deny it, reject it, or make another one of it: `We reject x=2`,
/// `除了x=1`.
pub(crate) fn denies(before: &str) -> bool {
    if !before.contains(' ') && before.is_ascii() {
        return false;
    }
    let han = ["不", "除", "舍去", "排除", "错"]
        .iter()
        .any(|word| before.contains(word));
    han || before
        .split(|c: char| !c.is_alphabetic() && !matches!(c, '\'' | '’'))
        .any(|word| {
            let word = word.to_lowercase();
            is_in(DENYING, word.as_str()) || word.ends_with("n't") || word.ends_with("n’t")
        })
}

fn is_denial(word: &str) -> bool {
    const AGAINST: [&str; 6] = [
        "incorrect",
        "mistak",
        "wrong",
        "false",
        "erroneous",
        "invalid",
    ];
    is_in(DENIALS, word)
        || matches!(word, "not" | "no" | "never" | "without" | "except" | "but")
        || AGAINST.iter().any(|start| word.starts_with(start))
}

/// The last clause of a text that concludes: `n = 14, so there are 14 ways` → `there are 14 ways`.
fn concluded(text: &str) -> Option<&str> {
    const SIGNS: [&str; 8] = [
        ", so ",
        ", therefore ",
        ", thus ",
        ", hence ",
        ". So ",
        ". Therefore ",
        ". Thus ",
        ". Hence ",
    ];
    let since = || {
        ["Since ", "Because ", "As "]
            .iter()
            .any(|word| text.starts_with(word))
            .then(|| text.rsplit_once(", "))?
    };
    let behind = SIGNS
        .iter()
        .filter_map(|sign| text.rsplit_once(sign))
        .min_by_key(|(_, clause)| clause.len())
        .or_else(since);
    behind.map(|(_, clause)| clause.trim_start_matches([',', ' ']))
}

/// Whether what stands before a value states it: `The total is`, `She has exactly`, `So`. An
/// unknown verb, or a number made of the value (`Its square is`), does not.
fn is_stating(words: &[&str]) -> bool {
    let mut words = words;
    let mut nouns = false;
    while let Some((last, before)) = words.split_last()
        && (is_in(MODIFIERS, last)
            || is_in(OF, last)
            || is_in(CONNECTED, last)
            || is_in(ALONE, last))
    {
        nouns |= is_in(OF, last);
        words = before;
    }
    let Some((last, before)) = words.split_last() else {
        return true;
    };
    let derived = before.last().is_some_and(|head| is_in(DERIVED, head)) && !before.contains(&"of");
    (nouns
        && matches!(
            *last,
            "correct"
                | "right"
                | "least"
                | "greatest"
                | "common"
                | "our"
                | "my"
                | "her"
                | "his"
                | "its"
        ))
        || (is_in(STATING, last) && !derived)
}

/// Whether the text states an action with a number of things: `Julie should read 42 pages`. Any
/// word is a verb there that is no preposition, label, or other word of the closed kinds
/// ([`NO_VERBS`]).
fn acts(words: &[&str], rest: &str) -> bool {
    let mut words = words;
    while let Some((last, before)) = words.split_last()
        && is_in(ADVERBS, last)
    {
        words = before;
    }
    if let [before @ .., "total", "of"] = words {
        words = before.strip_suffix(&["a"]).unwrap_or(before);
    }
    let number = |word: &&str| word.split('-').any(number_words::is_whole);
    // `handed out 8 books`, but `is down 8 dollars`.
    let moved =
        |verb: &str| !matches!(verb, "is" | "are" | "was" | "were" | "be" | "went" | "goes");
    let particle = |words: &[&str]| {
        matches!(words,
        [.., verb, "out" | "off" | "away" | "back"] if moved(verb))
    };
    if particle(words) {
        words = words.split_last().map_or(words, |(_, before)| before);
    }
    let Some((verb, subject)) = words.split_last() else {
        return false;
    };
    if subject.last().is_some_and(|head| is_in(HOLDERS, head)) {
        return false;
    }
    let says = |word: &&str| is_in(OTHER_TIMES, word);
    if subject.is_empty()
        || is_in(NO_VERBS, verb)
        || verb.ends_with("ly")
        || verb.len() < 3
        || words.iter().any(number)
        || words.iter().any(says)
    {
        return false;
    }
    // `$5`, `42 pages`; a number alone may be a label.
    let money = rest.starts_with('$')
        && rest
            .get(1..)
            .is_some_and(|amount| amount.starts_with(|c: char| c.is_ascii_digit()));
    let thing = || {
        let mut behind = rest.split_whitespace();
        let figures = behind.next().is_some_and(|number| {
            number
                .bytes()
                .all(|byte| byte.is_ascii_digit() || matches!(byte, b',' | b'.'))
        });
        let thing = behind.next().is_some_and(|thing| {
            thing.len() > 1
                && thing.chars().all(|c| c.is_ascii_alphabetic() || c == '-')
                && !is_in(NO_VERBS, thing)
        });
        figures && thing
    };
    money || rest.starts_with("\\$") || thing()
}

/// Whether a text states that something is a value: `The answer is 5`.
pub(crate) fn states(text: &str) -> bool {
    [" is ", " are ", " was ", " were ", " equals ", "是", "为"]
        .iter()
        .any(|verb| text.contains(verb))
}

/// Takes off the words before the value, and puts the sign and the name that they give before it:
/// `x is` → `x = `.
fn led(text: &str) -> Option<(String, &str)> {
    let mut words: Vec<&str> = Vec::new();
    // Whether letters stand among the words, as names of points and numbers do.
    let mut letters = false;
    let mut rest = text;
    loop {
        let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
        let word = rest.get(..end)?.trim_end_matches([',', ':', ';']);
        let word = word
            .strip_prefix('$')
            .and_then(|word| word.strip_suffix('$'))
            .filter(|name| name.len() == 1)
            .unwrap_or(word);
        let word = if matches!(word, "Mr." | "Mrs." | "Ms." | "Dr.") {
            word.trim_end_matches('.')
        } else {
            word
        };
        let plain = word.starts_with(|c: char| c.is_ascii_alphabetic())
            && word.ends_with(|c: char| c.is_ascii_alphabetic() || matches!(c, '\'' | '’'))
            && word
                .chars()
                .all(|c| c.is_ascii_alphabetic() || matches!(c, '\'' | '’' | '-'));
        // A number in words is the value, where nothing follows it but its unit, or what is
        // counted.
        let begins = || spelled::is_word(word.to_lowercase().split('-').next().unwrap_or_default());
        let pronoun = word.eq_ignore_ascii_case("one")
            && words
                .last()
                .is_some_and(|before| is_in(POINTING, &before.to_lowercase()));
        let value = begins()
            && !pronoun
            && (spelled::numeral(rest).is_some()
                || spelled::quantity(rest).is_some()
                || counted(rest).is_some()
                || text::share(rest).is_some());
        if !plain || value || end == rest.len() {
            break;
        }
        // `A, B` is a list, `y \equiv 3` a formula.
        let circumstance = || {
            let first = words.first().map(|first| first.to_lowercase());
            first.is_some_and(|first| is_in(CIRCUMSTANCES, &first))
        };
        if rest.get(..end)?.ends_with(',')
            && !CONNECTED.contains(&word.to_lowercase().as_str())
            && !circumstance()
        {
            return None;
        }
        let next = rest
            .get(end..)?
            .split_whitespace()
            .next()
            .unwrap_or_default();
        // `The line has equation y = 2x`
        if word.len() == 1 && next.starts_with('=') && !words.is_empty() {
            break;
        }
        // `the sum of x and y is`, `the distance between A and B is`
        let among = |before: &&str| is_in(BEFORE_LETTERS, before);
        let mentioned = word.len() == 1
            && (next != "is" || word.starts_with(|c: char| c.is_ascii_uppercase()))
            && words.last().is_some_and(among);
        if mentioned && !rest.get(..end)?.ends_with([',', ':', ';']) {
            words.push(word);
            letters = true;
            rest = rest.get(end..)?.trim_start();
            continue;
        }
        let named = matches!(next, "is" | "equals" | "are");
        let listed = rest.get(..end)?.len() > 1;
        if word.len() == 1 && !named && (!matches!(word, "a" | "A" | "I") || listed) {
            // `The solution is x > 3`
            if !listed
                && words
                    .last()
                    .is_some_and(|word| matches!(*word, "is" | "are" | "was" | "were" | "equals"))
            {
                break;
            }
            return None;
        }
        words.push(word);
        rest = rest.get(end..)?.trim_start();
    }
    let mut lead = String::new();
    if let Some(last) = words.last()
        && matches!(last.to_lowercase().as_str(), "minus" | "negative")
    {
        lead.push('-');
        words.pop();
    }
    // `x is 5` names what is 5.
    let figures = || {
        rest.trim_start_matches(['$', '-'])
            .starts_with(|c: char| c.is_ascii_digit() || c == '\\')
    };
    if let [.., name, "is"] = words.as_slice()
        && let Some((name, "coordinate" | "intercept" | "value")) = name.split_once('-')
        && name.len() == 1
        && figures()
    {
        lead.insert_str(0, &format!("{name} = "));
    }
    if let [.., name, verb] = words.as_slice()
        && name.len() == 1
        && !letters
        && !matches!(*name, "a" | "I")
        && matches!(*verb, "is" | "equals" | "are")
    {
        lead.insert_str(0, &format!("{name} = "));
    }
    let mut lower: Vec<String> = words.iter().map(|word| word.to_lowercase()).collect();
    // `the least common multiple`, but `at least`; `the first three terms`; `over the three
    // months`, but `over 5`.
    const TIMES: &[&str] = &[
        "days", "weeks", "months", "years", "hours", "minutes", "period",
    ];
    let all = lower.clone();
    let next = |at: usize, count: usize| all.get(at + 1..).unwrap_or_default().iter().take(count);
    let plain = |at: usize, word: &str| {
        let before = at
            .checked_sub(1)
            .and_then(|at| all.get(at))
            .map_or("", String::as_str);
        match word {
            "least" => before != "at",
            "multiple" | "divisor" => before == "common",
            "first" => before == "the" && next(at, 1).any(|word| number_words::is_whole(word)),
            "over" => {
                !matches!(before, "is" | "are" | "was" | "were" | "be")
                    && next(at, 3).any(|word| is_in(TIMES, word))
            }
            _ => false,
        }
    };
    let mut at = 0;
    lower.retain(|word| {
        at += 1;
        !plain(at - 1, word)
    });
    let equation = rest.contains('=');
    let denies = |word: &str| {
        let before = is_in(BEFORE, word)
            || number_words::SMALL.contains(&word)
            || matches!(word, "third" | "fourth" | "fifth");
        word.ends_with("n't")
            || word.ends_with("n’t")
            || is_denial(word)
            || (equation && is_in(DENYING, word))
            || (changes_number(word) && !before && word.len() > 1)
    };
    if lower.iter().flat_map(|word| word.split('-')).any(denies) {
        return None;
    }
    let lower: Vec<&str> = lower.iter().map(String::as_str).collect();
    // `It would have been 5`, `She used to have 5`, `We are given 5`; `The answer has 3 digits`,
    // `The square of it is 5`.
    let says_other = |two: &[&str]| match two {
        ["would" | "should", "have"]
        | ["used", "to"]
        | ["are" | "is" | "were" | "am", "given"]
        | ["can", "be"]
        | ["is" | "are" | "was" | "were", "off" | "out" | "up" | "down"] => true,
        [
            head,
            "has" | "have" | "contains" | "includes" | "requires" | "needs" | "uses" | "takes",
        ] => is_in(HOLDERS, head),
        [number, "times"] => number_words::is_whole(number),
        [part, "of"] => is_in(MADE_OF, part) || number_words::parts_in_one(part).is_some(),
        _ => false,
    };
    if lower.windows(2).any(says_other) || words.contains(&"may") {
        return None;
    }
    if let [before @ .., "is" | "are" | "lies" | "occurs", "at"] = lower.as_slice()
        && !before.is_empty()
        && rest
            .trim_start_matches(['$', '\\'])
            .trim_start_matches("left")
            .starts_with('(')
    {
        return Some((lead, rest));
    }
    // `The function is increasing on (-3, 3)`
    if let [
        _,
        ..,
        "is",
        "increasing" | "decreasing" | "defined" | "continuous" | "positive" | "concave" | "convex",
        "on",
    ] = lower.as_slice()
    {
        return Some((lead, rest));
    }
    let named = equation
        && matches!(
            lower.as_slice(),
            [.., "has" | "is" | "have" | "with" | "the", "equation"]
        );
    let figured = counted(rest);
    if !named && !is_stating(&lower) && !acts(&lower, figured.as_deref().unwrap_or(rest)) {
        return None;
    }
    let last = lower.last().copied().unwrap_or_default();
    let states = matches!(
        last,
        "is" | "are" | "was" | "were" | "equals" | "be" | "it's" | "that's"
    ) || lead.contains('=');
    if letters && !states {
        return None;
    }
    // `increasing on (0, 1)` says more than an interval.
    let quantity = rest.starts_with(|c: char| c.is_ascii_alphanumeric() || matches!(c, '$' | '-'))
        || rest.starts_with("\\$");
    if !lower.is_empty()
        && ((!states && !quantity) || (lower.len() == 1 && !states && !is_in(ALONE, last)))
    {
        return None;
    }
    match lower.as_slice() {
        [.., before, "of"] if !is_in(OF, before) || equation => return None,
        // `the sum of 6 numbers`
        [
            ..,
            "is" | "the",
            "sum" | "product" | "average" | "mean" | "difference",
            "of",
        ] if rest.ends_with(" numbers")
            || rest.ends_with(" terms")
            || rest.ends_with(" integers")
            || rest.ends_with(" digits") =>
        {
            return None;
        }
        ["of"] => return None,
        // `Its square is 14`
        [.., "its" | "whose", "square" | "cube", _] => return None,
        // `up to 5`, but `adds up to 5`
        [.., before, "up", "to"]
            if !before.starts_with("add")
                && !before.starts_with("sum")
                && !before.starts_with("come") =>
        {
            return None;
        }
        ["up", "to"] | [.., "more"] | [.., "each"] => return None,
        // `The number eight bus`
        [.., "number"] if figured.is_some() => return None,
        [.., last] if is_function(last) => return None,
        _ => {}
    }
    Some((lead, rest))
}

/// Takes off closing words behind a comma: `68, altogether` → `68`.
fn closed(text: &str) -> &str {
    let mut text = text;
    while let Some((before, words)) = text.rsplit_once(',') {
        let all: Vec<&str> = words.split_whitespace().collect();
        let plain = all
            .iter()
            .all(|word| CLOSING.contains(&word.to_lowercase().as_str()));
        if all.is_empty() || !plain || !before.contains(|c: char| c.is_ascii_digit() || c == '\\') {
            break;
        }
        text = before.trim_end();
    }
    text
}

/// Takes off the place, time or person behind a quantity: `68 clips in April and May` → `68 clips`.
fn without_circumstances(text: &str) -> &str {
    const BEGINNINGS: [&str; 11] = [
        " in ", " at ", " every ", " each ", " during ", " for ", " on ", " after ", " with ",
        " from ", " to ",
    ];
    let quantity = text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '$' | '\\' | '-'))
        && !text.contains('=');
    // `$64 for 16 glasses`
    if text.starts_with(['$', '\\'])
        && let Some((value, said)) = text.split_once(" for ")
        && value.contains(|c: char| c.is_ascii_digit())
        && let Some((number, thing)) = said.split_once(' ')
        && number.bytes().all(|byte| byte.is_ascii_digit())
        && thing.split_whitespace().all(|word| {
            word.chars().all(|c| c.is_ascii_alphabetic())
                && !changes_number(word)
                && !matches!(word, "each" | "every")
        })
    {
        return value;
    }
    let Some(at) = BEGINNINGS
        .iter()
        .filter_map(|beginning| text.find(beginning))
        .min()
        .filter(|_| quantity)
    else {
        return text;
    };
    let (value, said) = text.split_at_checked(at).unwrap_or((text, ""));
    let plain = said.split_whitespace().all(|word| {
        let word = word.trim_end_matches([',', '.']);
        word.chars()
            .all(|c| c.is_ascii_alphabetic() || matches!(c, '\'' | '’' | '-'))
            && (!changes_number(word) || matches!(word, "and" | "to"))
            && !matches!(
                word,
                "addition" | "excess" | "all" | "case" | "red" | "debt" | "deficit" | "arrears"
            )
    });
    if plain { value } else { text }
}

/// `68 clips` of `68 clips are left`.
fn without_predicate(text: &str) -> Option<&str> {
    text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '$' | '\\' | '-'))
        .then_some(())?;
    [" are ", " were ", " is ", " was "]
        .iter()
        .find_map(|verb| {
            let (value, said) = text.split_once(verb)?;
            said.split_whitespace()
                .all(|word| AFTER.contains(&word.to_lowercase().as_str()))
                .then_some(value)
        })
}

fn is_han(c: char) -> bool {
    matches!(c, '\u{4e00}'..='\u{9fff}')
}

/// What names of numbers, points, angles and functions are written with: `AB`, `∠A`, `f(x)`.
fn is_named(c: char) -> bool {
    c.is_ascii_alphabetic() || matches!(c, '∠' | '△' | '(' | ')' | '$')
}

/// A greatest or least value without where it is attained: `最大值是5，当x=2时取得`.
fn attained_in_chinese(text: &str) -> Option<&str> {
    let extreme = |text: &str| {
        ["最大", "最小", "极大", "极小"]
            .iter()
            .any(|word| text.contains(word))
    };
    let (head, tail) = text.split_once(['，', ','])?;
    let place = |text: &str| {
        (text.starts_with('当') || text.starts_with("此时"))
            && text.contains('=')
            && !text.contains(['不', '没', '无'])
    };
    if extreme(head) && place(tail) {
        return Some(head);
    }
    (extreme(tail) && place(head) && head.ends_with('时')).then_some(tail)
}

/// `小明一共有5个苹果` → `5个苹果`.
fn in_chinese(text: &str) -> Option<String> {
    if let Some(value) = attained_in_chinese(text) {
        return in_chinese(value);
    }
    // `解集为x>3`, `坐标是(2,3)`: what stands behind the verb is a formula.
    let stated = text
        .rfind(['是', '为'])
        .map(|at| at + '是'.len_utf8())
        .filter(|at| {
            let formula = text.get(*at..).unwrap_or_default();
            !formula.contains(is_han)
                && formula.starts_with(|c: char| is_named(c) || matches!(c, '[' | '{'))
                && formula.contains(['=', '<', '>', '≤', '≥', ',', '{'])
        });
    let figures = text.find(|c: char| c.is_ascii_digit() || matches!(c, '-' | '$' | '\\'));
    // `概率是二分之一`
    let in_words = || {
        ['是', '为', '有', '剩', '占', '要']
            .iter()
            .filter_map(|verb| text.rfind(*verb))
            .max()
            .map(|at| at + '是'.len_utf8())
    };
    let start = stated.or(figures).or_else(in_words)?;
    if stated.is_none() && figures.is_none() {
        chinese::in_signs(text.get(start..)?)?;
    }
    let (before, value) = text.split_at_checked(start)?;
    let before = before
        .replace("半径", "")
        .replace("大约", "约")
        .replace("不等式", "")
        .replace("分得", "");
    let names = before.contains(is_named);
    let verb = before.ends_with(['是', '为']);
    let words = before
        .chars()
        .all(|c| is_han(c) || matches!(c, ',' | ':' | ' ' | '，' | '：') || (verb && is_named(c)));
    // `设x为5` only supposes it.
    let supposes = names
        && before.replace("取值", "").contains([
            '设', '令', '当', '取', '若', '把', '将', '看', '作', '记', '原',
        ]);
    let changes = "不没非除减加乘倍负无比至超于半或若错第分之零根号未别"
        .chars()
        .any(|c| before.contains(c))
        || supposes
        || before.ends_with('每')
        || before.ends_with("每隔")
        || value.contains("位数");
    // `倒数为8`, `二进制8`, `可能是8`
    const OTHERS: [&str; 38] = [
        "增根",
        "补集",
        "对数",
        "系数",
        "次数",
        "平方为",
        "平方是",
        "平方等于",
        "立方为",
        "立方是",
        "倒数",
        "相反数",
        "绝对值",
        "平方根为",
        "平方根是",
        "下界",
        "上界",
        "进制",
        "可能",
        "也许",
        "或许",
        "大概",
        "想",
        "希望",
        "公元前",
        "支出",
        "能被",
        "因数",
        "倍数",
        "如果",
        "假设",
        "下降",
        "降低",
        "向左",
        "向西",
        "向南",
        "向下",
        "舍去",
    ];
    let others = OTHERS.iter().any(|other| before.contains(other))
        || "亏欠损赔".chars().any(|c| before.contains(c));
    if others {
        return None;
    }
    let last = before.chars().next_back()?;
    let name = before.split_once("的值").map_or("", |(name, _)| name);
    let name = if name.len() == 1 && stated.is_none() {
        format!("{name} = ")
    } else {
        String::new()
    };
    (words && !changes && !matches!(last, '多' | '少' | '近' | '的'))
        .then(|| format!("{name}{value}"))
}

#[cfg(test)]
mod tests {
    use super::value;

    #[test]
    fn sentences_state_their_value() {
        for (text, stated) in [
            ("The total is 68 clips, altogether.", "68 clips"),
            ("68, altogether.", "68"),
            ("She has 68 clips left.", "68 clips left"),
            ("There are a total of 68 clips", "68 clips"),
            (
                "The area of the square is $16$ square units",
                "$16$ square units",
            ),
            ("x is 5", "x = 5"),
            ("The answer is minus 5", "-5"),
            ("68 clips are left", "68 clips"),
            ("They need five hours", "5 hours"),
            ("In total, 68 clips", "68 clips"),
            ("小明一共有5个苹果", "5个苹果"),
            ("圆的半径是5米", "5米"),
            ("$x$ equals 10", "x = 10"),
            ("the value of $x$ is $10$", "x = $10$"),
            ("She has 10 dollars left over.", "10 dollars"),
            ("Natalia sold exactly 72 clips", "72 clips"),
            ("We find that the sum is 14", "14"),
            ("The area of the square is 14", "14"),
            ("正方形的面积是8平方米", "8平方米"),
        ] {
            assert_eq!(value(text).as_deref(), Some(stated), "{text}");
        }
    }

    #[test]
    fn sentences_that_say_something_else() {
        for text in [
            "The answer is not 68",
            "It isn't 68",
            "At least 68",
            "less than 68",
            "Half of 68",
            "The square of 5",
            "Twice the total is 68",
            "The wrong answer is 68",
            "up to 68",
            "Is it 68?",
            "I doubt that it is 14.",
            "It is doubtful that it is 14.",
            "The answer fails to be 14.",
            "The number differs from 14.",
            "It is close to 14.",
            "It tends to 14.",
            "Its square is 14.",
            "The upper bound is 14.",
            "It is rarely 10.",
            "See equation 10.",
            "diverges after 10",
            "She lost 10 dollars.",
            "其平方为8",
            "倒数为8",
            "下界是8",
            "亏损8元",
            "二进制8",
            "可能是8",
            "公元前8年",
            "68",
            "他比小红多5个",
            "答案不是5",
            "第5个",
            "red, 5",
            "March 5",
            r"\text{red}, blue",
            "A, B",
            "increasing on (0, 1)",
        ] {
            assert_eq!(value(text), None, "{text}");
        }
        assert_eq!(value("5, or none").as_deref(), None);
    }
}
