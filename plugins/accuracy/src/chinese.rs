//! Chinese words of quantity and relation as signs: `负五` → `-5`, `x不大于三` → `x≤3`, `三个半` → `3.5个`,
//! `百分之五` → `5\%`.

use crate::spelled::{chinese, undressed};
use reward_sdk::{number, units};

/// Texts longer than this are prose, in which single characters stand for no numbers.
const BYTES_MAX: usize = 400;

/// Words of relation, and their signs. Those that begin like others come first.
const RELATIONS: [(&str, &str); 22] = [
    ("大于或等于", "≥"),
    ("大于等于", "≥"),
    ("小于或等于", "≤"),
    ("小于等于", "≤"),
    ("不等于", "≠"),
    ("不小于", "≥"),
    ("不少于", "≥"),
    ("不低于", "≥"),
    ("至少为", "≥"),
    ("至少是", "≥"),
    ("至少", "≥"),
    ("不大于", "≤"),
    ("不多于", "≤"),
    ("不超过", "≤"),
    ("不高于", "≤"),
    ("至多为", "≤"),
    ("至多是", "≤"),
    ("至多", "≤"),
    ("大于", ">"),
    ("小于", "<"),
    ("等于", "="),
    ("属于", "∈"),
];

/// Words that say what a letter runs through.
const KINDS: [(&str, &str); 7] = [
    ("正整数", "\\mathbb{Z}^+"),
    ("非负整数", "\\mathbb{N}"),
    ("自然数", "\\mathbb{N}"),
    ("整数", "\\mathbb{Z}"),
    ("任意实数", "\\mathbb{R}"),
    ("全体实数", "\\mathbb{R}"),
    ("实数", "\\mathbb{R}"),
];

/// Whole answers in Chinese, and what they mean.
const WHOLE: [(&[&str], &str); 5] = [
    (
        &[
            "无解",
            "无实数解",
            "无实数根",
            "无实根",
            "无实解",
            "没有解",
            "没有实数解",
            "没有实数根",
            "空集",
            "解集为空集",
            "解集是空集",
        ],
        "\\emptyset",
    ),
    (
        &[
            "全体实数",
            "任意实数",
            "一切实数",
            "所有实数",
            "任何实数",
            "实数集",
        ],
        "\\mathbb{R}",
    ),
    (&["不存在", "极限不存在"], "\\text{does not exist}"),
    (
        &[
            "无穷多解",
            "有无穷多解",
            "无数解",
            "有无数解",
            "无穷多个解",
            "有无数个解",
            "无数个解",
        ],
        "\\text{infinitely many solutions}",
    ),
    (&["正无穷", "正无穷大", "无穷大"], "\\infty"),
];

/// Introductions before an answer that do not change it.
const LEADS: [&str; 22] = [
    "最终答案是",
    "最终答案为",
    "最终答案",
    "正确答案是",
    "正确答案为",
    "答案应该是",
    "答案是",
    "答案为",
    "答案",
    "结果是",
    "结果为",
    "结果",
    "所以",
    "因此",
    "故",
    "答",
    "一共有",
    "一共",
    "总共",
    "共有",
    "共",
    "解得",
];

/// The subject of a statement that there is nothing.
const SUBJECTS: [&str; 7] = [
    "原方程组",
    "原方程",
    "此方程",
    "该方程",
    "方程组",
    "方程",
    "不等式",
];

/// Measure words: behind a number in words they say that it is one.
const MEASURES: [&str; 40] = [
    "个", "只", "条", "人", "名", "本", "张", "块", "元", "头", "匹", "辆", "棵", "朵", "支", "枝",
    "件", "次", "种", "位", "岁", "倍", "组", "对", "双", "瓶", "盒", "箱", "袋", "页", "根", "间",
    "座", "排", "颗", "粒", "份", "副", "桶", "篮",
];
/// Measure words behind which the thing that is counted may stand.
const COUNTING: [&str; 16] = [
    "个", "只", "名", "本", "张", "位", "辆", "棵", "朵", "件", "头", "匹", "支", "颗", "瓶", "盒",
];

/// Characters that change the number before them.
const CHANGES: [char; 22] = [
    '以', '不', '余', '多', '几', '半', '非', '负', '无', '除', '减', '加', '乘', '约', '折', '零',
    '左', '少', '比', '错', '分', '来',
];

/// The text with such words as signs; `None` where it has none. Punctuation is ASCII's already, but
/// `或` and `和` stand as they are.
pub(crate) fn in_signs(text: &str) -> Option<String> {
    let han = |text: &str| text.contains(|c: char| matches!(c, '\u{4e00}'..='\u{9fff}'));
    if text.len() > BYTES_MAX || !han(text) {
        return None;
    }
    let mut plain = undressed(text.trim().trim_end_matches(['.', '。', '!', ','])).to_string();
    while let Some(rest) = LEADS
        .iter()
        .find_map(|lead| plain.strip_prefix(lead))
        .filter(|rest| !rest.trim().is_empty())
    {
        plain = rest
            .trim_start_matches([':', ',', '：', '，', ' '])
            .to_string();
    }
    let bare = SUBJECTS
        .iter()
        .find_map(|subject| plain.strip_prefix(subject))
        .unwrap_or(&plain);
    if let Some((_, meant)) = WHOLE
        .iter()
        .find(|(spellings, _)| spellings.contains(&bare))
    {
        return Some((*meant).to_string());
    }
    let related = with_subjects(&declared(&with_signs(&plain)));
    let figured = figures(&related);
    (figured != text).then_some(figured)
}

fn with_signs(text: &str) -> String {
    RELATIONS
        .iter()
        .fold(text.to_string(), |text, (word, sign)| {
            if text.contains(word) {
                text.replace(word, sign)
            } else {
                text
            }
        })
}

/// `k为整数` → `k∈\mathbb{Z}`, behind a comma.
fn declared(text: &str) -> String {
    let mut out = text.replace("其中", ",").replace(",,", ",");
    for (kind, set) in KINDS {
        for verb in ["为任意", "是任意", "为", "是", "∈"] {
            let words = format!("{verb}{kind}");
            if let Some(at) = out.find(&words)
                && out
                    .get(..at)
                    .is_some_and(|before| before.ends_with(|c: char| c.is_ascii_alphabetic()))
            {
                out = out.replace(&words, &format!("∈{set}"));
            }
        }
    }
    out
}

/// `x>3且<5` → `x>3且x<5`.
fn with_subjects(text: &str) -> String {
    let relation = |c: char| matches!(c, '<' | '>' | '≤' | '≥' | '≠' | '=');
    let Some(first) = text.find(relation) else {
        return text.to_string();
    };
    let subject = text.get(..first).unwrap_or_default().trim();
    if subject.chars().count() != 1 || !subject.starts_with(|c: char| c.is_ascii_alphabetic()) {
        return text.to_string();
    }
    let mut out = text.to_string();
    for join in [" and ", " or ", "且", "或", ", ", ","] {
        for sign in ['<', '>', '≤', '≥', '≠'] {
            out = out.replace(&format!("{join}{sign}"), &format!("{join}{subject}{sign}"));
        }
    }
    out
}

/// Each part between signs and punctuation that is a number in words, in figures.
fn figures(text: &str) -> String {
    let ends =
        |c: char| c.is_whitespace() || "<>≤≥≠=,;:()[]{}|、，；：（）或和与及且∈\\$".contains(c);
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(ends).unwrap_or(rest.len());
        let (part, after) = rest.split_at(end);
        out.push_str(&quantity(part).unwrap_or_else(|| part.to_string()));
        let separator = after.chars().next().map_or(0, char::len_utf8);
        out.push_str(after.get(..separator).unwrap_or_default());
        rest = after.get(separator..).unwrap_or_default();
    }
    out
}

/// A number with words in it, and its unit: `负三点五米` → `-3.5米`, `3个半小时` → `3.5小时`.
fn quantity(part: &str) -> Option<String> {
    let (sign, part) = match ["负的", "负", "零下", "-"]
        .iter()
        .find_map(|minus| part.strip_prefix(minus))
    {
        Some(rest) => ("-", rest),
        None => ("", part),
    };
    let part = ["大约", "约"]
        .iter()
        .find_map(|about| part.strip_prefix(about))
        .unwrap_or(part);
    // `半小时`, `一半`
    if let Some(unit) = part
        .strip_prefix("半")
        .or_else(|| Some("").filter(|_| part == "一半"))
    {
        let unit = unit.strip_prefix('个').unwrap_or(unit);
        return (unit.is_empty() || is_measure(unit)).then(|| format!("{sign}0.5{unit}"));
    }
    let end = part.find(|c: char| !numeric(c)).unwrap_or(part.len());
    // `五千克` is five kilograms, `千米` no number.
    let end = part
        .get(..end)?
        .strip_suffix('千')
        .map(str::len)
        .filter(|end| part.get(*end..).is_some_and(units::is_known))
        .unwrap_or(end);
    let (number, unit) = part.split_at(end);
    if number.starts_with(['百', '千', '万', '亿', '点', '分', '又', '成'])
        && !number.contains("分之")
    {
        return None;
    }
    // `3个半`, `两天半`, `一个半小时`
    if let Some((measure, unit)) = unit.split_once('半') {
        let whole =
            value(number).filter(|value| value.bytes().all(|byte| byte.is_ascii_digit()))?;
        let (measure, unit) = if unit.is_empty() {
            (measure, "")
        } else {
            (measure.strip_prefix('个')?, unit)
        };
        let unit = [measure, unit].concat();
        return (unit.is_empty() || is_measure(&unit)).then(|| format!("{sign}{whole}.5{unit}"));
    }
    // In figures alone it is for others to read.
    let in_words = sign == "-" || number.contains(|c: char| !c.is_ascii());
    if number.is_empty() || !in_words {
        // `3个小时`
        let unit = unit
            .strip_prefix('个')
            .filter(|unit| !number.is_empty() && units::is_known(unit))?;
        return Some(format!("{sign}{number}{unit}"));
    }
    let value = value(number)?;
    let unit = unit
        .strip_prefix('个')
        .filter(|unit| units::is_known(unit))
        .unwrap_or(unit);
    (unit.is_empty() || is_measure(unit)).then(|| format!("{sign}{value}{unit}"))
}

fn numeric(c: char) -> bool {
    "零〇一二三四五六七八九十百千万亿两点分之又根号成".contains(c) || c.is_ascii_digit() || c == '.'
}

/// A measure word, be it with what is counted, or a known unit.
fn is_measure(unit: &str) -> bool {
    let counted = || {
        COUNTING
            .iter()
            .find_map(|measure| unit.strip_prefix(measure))
            .is_some_and(|what| what.chars().count() <= 6)
    };
    !unit.contains(CHANGES)
        && (MEASURES.contains(&unit) || units::is_known(unit) || (!unit.is_ascii() && counted()))
}

/// A number without sign and unit, as LaTeX: `二又三分之一` → `2\frac{1}{3}`.
fn value(text: &str) -> Option<String> {
    if let Some((below, above)) = text.split_once("分之") {
        let (whole, below) = match below.split_once('又') {
            Some((whole, below)) => (plain(whole)?, below),
            None => (String::new(), below),
        };
        let above = plain(above)?;
        return match below {
            "百" if whole.is_empty() => Some(format!("{above}\\%")),
            below => Some(format!("{whole}\\frac{{{above}}}{{{}}}", plain(below)?)),
        };
    }
    // `三成`
    if let Some(tenths) = text.strip_suffix('成') {
        return Some(format!(
            "{}0\\%",
            plain(tenths).filter(|tenths| tenths.len() == 1)?
        ));
    }
    plain(text)
}

/// A whole number, a decimal or a root.
fn plain(text: &str) -> Option<String> {
    if let Some((factor, inside)) = text.split_once("根号") {
        let factor = if factor.is_empty() {
            factor.to_string()
        } else {
            plain(factor)?
        };
        return Some(format!("{factor}\\sqrt{{{}}}", plain(inside)?));
    }
    if text
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.')
    {
        return Some(text.to_string())
            .filter(|text| text.starts_with(|c: char| c.is_ascii_digit()) && !text.ends_with('.'));
    }
    // `8百`, `3.5万`
    const SCALES: [(&str, i64); 8] = [
        ("千万", 7),
        ("百万", 6),
        ("十万", 5),
        ("百", 2),
        ("千", 3),
        ("万", 4),
        ("亿", 8),
        ("十", 1),
    ];
    if let Some((figures, ten)) = SCALES
        .iter()
        .find_map(|(name, ten)| Some((text.strip_suffix(name)?, *ten)))
        && figures.starts_with(|c: char| c.is_ascii_digit())
        && figures
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b'.')
    {
        return number::read(figures)?
            .value
            .scale(ten)?
            .to_i64()
            .map(|value| value.to_string());
    }
    if let Some((whole, decimals)) = text.split_once('点') {
        let digits = decimals
            .chars()
            .map(digit)
            .collect::<Option<String>>()
            .filter(|digits| !digits.is_empty())?;
        return Some(format!("{}.{digits}", chinese(whole)?));
    }
    // `二〇二四`
    const YEAR: usize = 4;
    let year = || {
        text.chars()
            .map(digit)
            .collect::<Option<String>>()
            .filter(|digits| digits.len() == YEAR)
    };
    chinese(text).map(|value| value.to_string()).or_else(year)
}

fn digit(c: char) -> Option<char> {
    const DIGITS: [char; 10] = ['零', '一', '二', '三', '四', '五', '六', '七', '八', '九'];
    let at = if c == '〇' {
        Some(0)
    } else {
        DIGITS.iter().position(|known| *known == c)
    };
    at.and_then(|at| char::from_digit(u32::try_from(at).ok()?, 10))
}

#[cfg(test)]
mod tests {
    use super::in_signs;

    #[test]
    fn words_become_signs() {
        for (text, signs) in [
            ("负五", "-5"),
            ("负三点五", "-3.5"),
            ("三点一四", "3.14"),
            ("零点五", "0.5"),
            ("3个半", "3.5个"),
            ("两个半小时", "2.5小时"),
            ("一年半", "1.5年"),
            ("半小时", "0.5小时"),
            ("百分之五", "5\\%"),
            ("百分之12.5", "12.5\\%"),
            ("三成", "30\\%"),
            ("三分之一", "\\frac{1}{3}"),
            ("负三分之二", "-\\frac{2}{3}"),
            ("二又三分之一", "2\\frac{1}{3}"),
            ("三万五千", "35000"),
            ("一亿二千万", "120000000"),
            ("8百", "800"),
            ("3.5万元", "35000元"),
            ("8千元", "8000元"),
            ("两千零五", "2005"),
            ("二〇二四", "2024"),
            ("根号三", "\\sqrt{3}"),
            ("二分之根号三", "\\frac{\\sqrt{3}}{2}"),
            ("三个苹果", "3个苹果"),
            ("五米", "5米"),
            ("五千克", "5千克"),
            ("无解", "\\emptyset"),
            ("方程无实数根", "\\emptyset"),
            ("全体实数", "\\mathbb{R}"),
            ("x大于3", "x>3"),
            ("x不大于三", "x≤3"),
            ("x大于等于负一", "x≥-1"),
            ("x大于3且小于5", "x>3且x<5"),
            ("x不等于2", "x≠2"),
            ("2k+1, 其中k为整数", "2k+1, ,k∈\\mathbb{Z}"),
            ("答案是三", "3"),
            ("答:5个小时", "5小时"),
            ("一或三", "1或3"),
        ] {
            assert_eq!(in_signs(text).as_deref(), Some(signs), "{text}");
        }
    }

    #[test]
    fn other_words_stay() {
        for text in [
            "三角形",
            "一次函数",
            "二元一次方程",
            "三十多",
            "十几",
            "五分多",
            "星期三",
            "三以上",
            "一点",
            "千克",
            "5千克",
            "8千米",
            "5",
            "x > 3",
            "三四",
            "甲",
        ] {
            assert_eq!(in_signs(text), None, "{text}");
        }
    }
}
