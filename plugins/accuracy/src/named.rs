//! Lists of numbers with a name each: `鸡8只,兔3只`, `8 chickens and 3 rabbits`. Their order does not
//! matter, their names do.

use crate::fonts::unfonted;
use reward_sdk::units;
use std::collections::BTreeMap;

/// Longer texts are prose.
const BYTES_MAX: usize = 120;
const NAME_CHARS_MAX: usize = 6;
const WORDS_MAX: usize = 3;

/// The numbers of a list, by their names; `None` for a text that is no such list.
pub(crate) fn read(text: &str) -> Option<BTreeMap<String, String>> {
    let digit = |c: char| c.is_ascii_digit();
    if text.len() > BYTES_MAX || !text.contains(digit) {
        return None;
    }
    let found = if text.starts_with(is_han) {
        before_numbers(text)
    } else {
        behind_numbers(text)
    }?;
    (found.len() > 1).then_some(found)
}

fn is_han(c: char) -> bool {
    matches!(c, '\u{4e00}'..='\u{9fff}')
}

/// `鸡有8只,兔子有3只` → 鸡: `8只`, 兔: `3只`.
fn before_numbers(text: &str) -> Option<BTreeMap<String, String>> {
    let text = text
        .strip_prefix("答案")
        .or_else(|| text.strip_prefix('答'))
        .unwrap_or(text);
    let text = text
        .trim_start_matches([':', '：', ' '])
        .trim_end_matches(['.', '。']);
    let mut found = BTreeMap::new();
    for part in text.split([',', '，', '、', ';', '；']) {
        let part = part.trim();
        let start = part.find(|c: char| c.is_ascii_digit() || matches!(c, '-' | '$' | '\\'))?;
        let (name, value) = part.split_at_checked(start)?;
        let name = name
            .trim_end_matches([':', '：', '=', '有', '是', '为', '得', ' '])
            .trim_end_matches('子');
        let plain =
            !name.is_empty() && name.chars().count() <= NAME_CHARS_MAX && name.chars().all(is_han);
        (plain && found.insert(name.to_string(), value.to_string()).is_none()).then_some(())?;
    }
    Some(found)
}

/// `8 chickens and 3 rabbits` → chicken: `8`, rabbit: `3`; `None` with units, which may be
/// converted.
fn behind_numbers(text: &str) -> Option<BTreeMap<String, String>> {
    if !text.starts_with(|c: char| c.is_ascii_digit()) || !text.contains(char::is_alphabetic) {
        return None;
    }
    let text = unfonted(text)
        .replace(", and ", ", ")
        .replace(" and ", ", ");
    let mut found = BTreeMap::new();
    for part in text.trim_end_matches('.').split(',') {
        let (value, name) = part.trim().split_once(' ')?;
        let plain = value.bytes().all(|byte| byte.is_ascii_digit())
            && name.split_whitespace().count() <= WORDS_MAX;
        let words = name.chars().all(|c| c.is_ascii_alphabetic() || c == ' ');
        let measured = name
            .split_whitespace()
            .any(|word| units::is_known(&word.to_lowercase()) || units::changes_number(word));
        let name = name.trim().to_lowercase();
        let name = name.strip_suffix('s').unwrap_or(&name);
        (plain && words && !measured && !name.is_empty()).then_some(())?;
        found
            .insert(name.to_string(), value.to_string())
            .is_none()
            .then_some(())?;
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::read;

    #[test]
    fn numbers_and_their_names() {
        assert_eq!(read("鸡8只,兔3只"), read("兔子有3只、鸡有8只。"));
        assert_ne!(read("鸡8只,兔3只"), read("鸡3只,兔8只"));
        assert_eq!(
            read("8 chickens and 3 rabbits"),
            read(r"3\text{ rabbits}, 8\text{ chickens}")
        );
        for text in [
            "鸡8只",
            "鸡8只,3只",
            "3 hours, 20 minutes",
            "8, 3",
            "8 hens, 3 hens",
            "x = 3, y = 5",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
