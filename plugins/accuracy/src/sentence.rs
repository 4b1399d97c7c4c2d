//! The value that a sentence states: `The total is 68 clips, altogether.` → `68 clips`.
//!
//! Only the words before and behind the value are taken off, and only where none of them changes it or says that it is another
//! ([`changes_number`]). What is left is read as any answer is.

use crate::names::is_function;
use crate::spelled;
use reward_sdk::units::changes_number;

/// Longer texts are essays.
const BYTES_MAX: usize = 300;

/// Verbs and the like that a value may follow, though behind a number they would change it.
const BEFORE: &[&str] = &[
    "is",
    "are",
    "was",
    "were",
    "to",
    "more",
    "parts",
    "unknown",
    "point",
    "base",
    "root",
    "power",
    "third",
    "fourth",
    "fifth",
    "score",
    "remainder",
];
/// Words before a value that say it is not the value alone.
const NEVER: &[&str] = &[
    "if",
    "unless",
    "until",
    "when",
    "multiply",
    "divide",
    "add",
    "subtract",
    "increase",
    "increased",
    "decrease",
    "decreased",
    "every",
    "per",
    "as",
    "first",
    "last",
    "second",
    "day",
    "step",
    "doubt",
    "doubtful",
    "fails",
    "differs",
    "close",
    "tends",
    "bound",
    "rarely",
    "hardly",
    "equation",
    "diverges",
    "can",
    "option",
    "choice",
    "question",
    "problem",
];
/// Words before a comma at a sentence's beginning: `In total, `; another word would be an answer of its own.
const CONNECTED: &[&str] = &[
    "so",
    "therefore",
    "thus",
    "hence",
    "altogether",
    "finally",
    "overall",
    "total",
    "all",
    "conclusion",
    "summary",
    "result",
    "consequently",
    "then",
];
/// Words that alone may stand before a value.
const ALONE: &[&str] =
    &["so", "therefore", "thus", "hence", "altogether", "answer", "total", "exactly", "only", "about", "approximately"];
/// Words behind a comma that say nothing more of the value.
const CLOSING: &[&str] = &[
    "altogether",
    "in",
    "total",
    "all",
    "exactly",
    "only",
    "together",
    "left",
    "each",
    "as",
    "required",
    "expected",
    "needed",
    "of",
    "course",
    "indeed",
    "overall",
    "therefore",
    "obviously",
    "now",
    "remaining",
];
/// What has a value: `a total of 68`.
const OF: &[&str] = &[
    "total",
    "sum",
    "value",
    "answer",
    "result",
    "area",
    "volume",
    "perimeter",
    "cost",
    "price",
    "speed",
    "rate",
    "profit",
    "distance",
    "length",
    "height",
    "weight",
    "age",
    "amount",
    "number",
    "count",
    "average",
    "mean",
    "probability",
];
/// Words behind a verb that follows the value: `68 clips are left`.
const AFTER: &[&str] = &[
    "left",
    "needed",
    "required",
    "sold",
    "used",
    "the",
    "answer",
    "correct",
    "total",
    "in",
    "altogether",
    "remaining",
    "made",
    "there",
    "final",
    "result",
    "solution",
    "value",
    "still",
    "now",
];

/// The value that a text states, in the text's own writing; `None` where it is no sentence, or one that says something else of it.
pub fn value(text: &str) -> Option<String> {
    let words = |text: &str| text.contains(|c: char| matches!(c, ' ' | ',') || !c.is_ascii());
    if text.len() > BYTES_MAX || !words(text) || text.contains(['?', '？', '\n']) {
        return None;
    }
    let text = text.trim().trim_end_matches(['.', '!', '。', '！']).trim_end();
    if text.starts_with(|c: char| matches!(c, '\u{4e00}'..='\u{9fff}')) {
        return in_chinese(text);
    }
    let (lead, rest) = led(text)?;
    let rest = closed(rest);
    let rest = if lead.is_empty() && rest.len() == text.len() { rest } else { without_circumstances(rest) };
    let rest = without_predicate(rest).unwrap_or(rest);
    (!rest.is_empty() && (rest.len() < text.len() || !lead.is_empty())).then(|| format!("{lead}{rest}"))
}

/// Whether a text says of something that it is a value: `The answer is 5`.
pub fn states(text: &str) -> bool {
    [" is ", " are ", " was ", " were ", " equals ", "是", "为"].iter().any(|verb| text.contains(verb))
}

/// Without the words before the value; what they say of its sign and name is put before it: `x is` → `x = `.
fn led(text: &str) -> Option<(String, &str)> {
    let mut words: Vec<&str> = Vec::new();
    let mut rest = text;
    loop {
        let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
        let word = rest.get(..end)?.trim_end_matches([',', ':', ';']);
        let word = word.strip_prefix('$').and_then(|word| word.strip_suffix('$')).filter(|name| name.len() == 1).unwrap_or(word);
        let plain = !word.is_empty() && word.chars().all(|c| c.is_ascii_alphabetic() || matches!(c, '\'' | '’'));
        // A number in words is the value, where nothing follows it but its unit.
        let value =
            spelled::is_word(&word.to_lowercase()) && (spelled::numeral(rest).is_some() || spelled::quantity(rest).is_some());
        if !plain || value || end == rest.len() {
            break;
        }
        // `A, B` is a list, `y \equiv 3` a formula.
        if rest.get(..end)?.ends_with(',') && !CONNECTED.contains(&word.to_lowercase().as_str()) {
            return None;
        }
        let next = rest.get(end..)?.split_whitespace().next().unwrap_or_default();
        let named = matches!(next, "is" | "equals" | "are");
        let listed = rest.get(..end)?.len() > 1;
        if word.len() == 1 && !named && (!matches!(word, "a" | "A" | "I") || listed) {
            // `The solution is x > 3`
            if !listed && words.last().is_some_and(|word| matches!(*word, "is" | "are" | "was" | "were" | "equals")) {
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
    if let [.., name, verb] = words.as_slice()
        && name.len() == 1
        && !matches!(*name, "a" | "I")
        && matches!(*verb, "is" | "equals" | "are")
    {
        lead.insert_str(0, &format!("{name} = "));
    }
    let lower: Vec<String> = words.iter().map(|word| word.to_lowercase()).collect();
    let denies = |word: &String| {
        word.ends_with("n't")
            || word.ends_with("n’t")
            || NEVER.contains(&word.as_str())
            || (changes_number(word) && !BEFORE.contains(&word.as_str()) && word.len() > 1)
    };
    if lower.iter().any(denies) {
        return None;
    }
    let last = lower.last().map(String::as_str).unwrap_or_default();
    let states = matches!(last, "is" | "are" | "was" | "were" | "equals" | "be") || lead.contains('=');
    // `increasing on (0, 1)` says more than an interval.
    let quantity = rest.starts_with(|c: char| c.is_ascii_alphanumeric() || matches!(c, '$' | '-')) || rest.starts_with("\\$");
    if !lower.is_empty() && ((!states && !quantity) || (lower.len() == 1 && !states && !ALONE.contains(&last))) {
        return None;
    }
    match lower.iter().map(String::as_str).collect::<Vec<&str>>().as_slice() {
        [.., before, "of"] if !OF.contains(before) => return None,
        ["of"] => return None,
        // `Its square is 14`
        [.., "its" | "whose", "square" | "cube", _] => return None,
        // `up to 5`, but `adds up to 5`
        [.., before, "up", "to"] if !before.starts_with("add") && !before.starts_with("sum") && !before.starts_with("come") => {
            return None;
        }
        ["up", "to"] | [.., "more"] | [.., "each"] => return None,
        [.., last] if is_function(last) => return None,
        _ => {}
    }
    Some((lead, rest))
}

/// Without words behind a comma: `68, altogether`.
fn closed(text: &str) -> &str {
    let mut text = text;
    while let Some((before, words)) = text.rsplit_once(',') {
        let all: Vec<&str> = words.split_whitespace().collect();
        let plain = all.iter().all(|word| CLOSING.contains(&word.to_lowercase().as_str()));
        if all.is_empty() || !plain || !before.contains(|c: char| c.is_ascii_digit() || c == '\\') {
            break;
        }
        text = before.trim_end();
    }
    text
}

/// Without where, when and for whom: `68 clips in April and May` → `68 clips`.
fn without_circumstances(text: &str) -> &str {
    const BEGINNINGS: [&str; 11] =
        [" in ", " at ", " every ", " each ", " during ", " for ", " on ", " after ", " with ", " from ", " to "];
    let quantity = text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '$' | '\\' | '-')) && !text.contains('=');
    let Some(at) = BEGINNINGS.iter().filter_map(|beginning| text.find(beginning)).min().filter(|_| quantity) else { return text };
    let (value, said) = text.split_at_checked(at).unwrap_or((text, ""));
    let plain = said.split_whitespace().all(|word| {
        let word = word.trim_end_matches([',', '.']);
        word.chars().all(|c| c.is_ascii_alphabetic() || matches!(c, '\'' | '’' | '-'))
            && (!changes_number(word) || matches!(word, "and" | "to"))
            && !matches!(word, "addition" | "excess" | "all" | "case")
    });
    if plain { value } else { text }
}

/// `68 clips` of `68 clips are left`.
fn without_predicate(text: &str) -> Option<&str> {
    text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '$' | '\\' | '-')).then_some(())?;
    [" are ", " were ", " is ", " was "].iter().find_map(|verb| {
        let (value, said) = text.split_once(verb)?;
        said.split_whitespace().all(|word| AFTER.contains(&word.to_lowercase().as_str())).then_some(value)
    })
}

/// `小明一共有5个苹果` → `5个苹果`.
fn in_chinese(text: &str) -> Option<String> {
    let start = text.find(|c: char| c.is_ascii_digit() || matches!(c, '-' | '$' | '\\'))?;
    let (before, value) = text.split_at_checked(start)?;
    let before = before.replace("半径", "").replace("大约", "约");
    let words = before.chars().all(|c| matches!(c, '\u{4e00}'..='\u{9fff}' | ',' | ':' | ' ' | '，' | '：'));
    const OTHERS: [&str; 14] =
        ["平方", "立方", "倒数", "相反数", "绝对值", "界", "进制", "亏", "欠", "降", "可能", "也许", "支出", "公元前"];
    let another = OTHERS.iter().any(|other| before.contains(other));
    let changes = another || "不没非除减加乘倍负无比至超于半或每错第分之零根号未别".chars().any(|c| before.contains(c));
    let last = before.chars().next_back()?;
    (words && !changes && !matches!(last, '多' | '少' | '近' | '的')).then(|| value.to_string())
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
            ("The area of the square is $16$ square units", "$16$ square units"),
            ("x is 5", "x = 5"),
            ("The answer is minus 5", "-5"),
            ("68 clips are left", "68 clips"),
            ("They need five hours", "five hours"),
            ("In total, 68 clips", "68 clips"),
            ("小明一共有5个苹果", "5个苹果"),
            ("圆的半径是5米", "5米"),
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
