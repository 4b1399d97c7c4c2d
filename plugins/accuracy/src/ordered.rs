//! Products and statements whose order is what they say: matrices, `A^{-1}B`; composed functions,
//! `f \circ g`; vectors, `\vec a \times \vec b`; logic, `p \to q`. They are read as products of
//! letters, which commute: so two that come out equal count only where they are also written alike.

/// Signs that are one sign, and those that make no difference.
const SPELLINGS: [(&str, &str); 20] = [
    ("\\left", ""),
    ("\\right)", ")"),
    ("\\longrightarrow", "\\to"),
    ("\\rightarrow", "\\to"),
    ("\\wedge", "\\land"),
    ("\\vee", "\\lor"),
    ("\\neg", "\\lnot"),
    ("\\cdot", ""),
    ("\\mathbf", ""),
    ("\\mathrm", ""),
    ("\\boldsymbol", ""),
    ("\\bm", ""),
    ("\\overrightarrow", "\\vec"),
    ("\\top", "T"),
    ("\\text", ""),
    ("\\,", ""),
    ("\\;", ""),
    ("\\!", ""),
    ("{", ""),
    ("}", ""),
];

/// Whether one of two formulas that are equal as products has an order that the other one has not.
pub(crate) fn differ(reference: &str, answer: &str) -> bool {
    let (r, a) = (sides(reference), sides(answer));
    let apart = |x: &str, y: &str| (is_ordered(x) || is_ordered(y)) && plain(x) != plain(y);
    apart(r.1, a.1) || r.0.zip(a.0).is_some_and(|(x, y)| apart(x, y))
}

/// Whether two texts are one vector with its two ends, or its two factors, in another order and
/// another sign: `-\vec b \times \vec a` is `\vec a \times \vec b`, `-\overrightarrow{BA}` is
/// `\overrightarrow{AB}`.
pub(crate) fn turned(reference: &str, answer: &str) -> bool {
    match (ends(reference), ends(answer)) {
        (Some((r, first, second)), Some((a, other_first, other_second))) => {
            r != a && first == other_second && second == other_first
        }
        _ => false,
    }
}

/// Whether a minus stands before a product of two vectors, or an arrow between two points, and
/// these.
fn ends(text: &str) -> Option<(bool, String, String)> {
    if !["\\vec", "\\overrightarrow", "\\mathbf"]
        .iter()
        .any(|font| text.contains(font))
    {
        return None;
    }
    let text: String = text
        .chars()
        .filter(|c| !c.is_whitespace() && *c != '$')
        .collect();
    let (minus, bare) = text
        .strip_prefix('-')
        .map_or((false, text.as_str()), |bare| (true, bare));
    let bare = bare
        .strip_prefix('(')
        .and_then(|bare| bare.strip_suffix(')'))
        .unwrap_or(bare);
    let vector = |text: &str| {
        let name = ["\\vec", "\\overrightarrow", "\\mathbf"]
            .iter()
            .find_map(|font| text.strip_prefix(font))?;
        let name = name
            .strip_prefix('{')
            .and_then(|name| name.strip_suffix('}'))
            .unwrap_or(name);
        ((1..=2).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphabetic()))
            .then(|| name.to_string())
    };
    if let Some((first, second)) = bare.split_once("\\times") {
        return Some((minus, vector(first)?, vector(second)?));
    }
    // `\mathbf{AB}` is a product of matrices.
    let name = vector(bare).filter(|_| !bare.starts_with("\\mathbf"))?;
    let (first, second) = name
        .split_at_checked(1)
        .filter(|_| name.len() == 2 && name.bytes().all(|byte| byte.is_ascii_uppercase()))?;
    // No factors are called so.
    Some((minus, format!("point {first}"), format!("point {second}")))
}

/// What stands before the last `=`, and behind it.
fn sides(text: &str) -> (Option<&str>, &str) {
    text.rsplit_once('=')
        .map_or((None, text), |(left, right)| (Some(left), right))
}

/// Returns a text as it is written, in one spelling; `p \land q` is `q \land p`.
fn plain(text: &str) -> String {
    let mut plain = text.to_string();
    for (spelling, sign) in SPELLINGS {
        plain = plain.replace(spelling, sign);
    }
    plain.retain(|c| !c.is_whitespace() && c != '$');
    let single = |sign: &str, other: &str| {
        plain.contains(sign)
            && ![other, "\\to", "(", "^"]
                .iter()
                .any(|sign| plain.contains(sign))
    };
    for (sign, other) in [("\\land", "\\lor"), ("\\lor", "\\land")] {
        if single(sign, other) {
            let mut parts: Vec<&str> = plain.split(sign).collect();
            parts.sort_unstable();
            return parts.join(sign);
        }
    }
    plain
}

fn is_ordered(text: &str) -> bool {
    let relates = ["<", ">", "\\le", "\\ge", "\\lt", "\\gt", "\\in", "\\ne"]
        .iter()
        .any(|sign| text.contains(sign));
    let joins = !relates
        && ["\\land", "\\lor", "\\wedge", "\\vee"]
            .iter()
            .any(|sign| text.contains(sign));
    let implies = !text.contains("\\lim")
        && ["\\to", "\\rightarrow"]
            .iter()
            .any(|sign| text.contains(sign));
    let vectors = text.contains("\\times")
        && ["\\vec", "\\mathbf", "\\overrightarrow"]
            .iter()
            .any(|font| text.contains(font));
    let similar = text.contains("\\triangle") && text.contains("\\sim");
    joins || implies || vectors || similar || composes(text) || has_matrices(text)
}

/// `f \circ g`; a degree stands behind a number or a `^`.
fn composes(text: &str) -> bool {
    text.match_indices("\\circ").any(|(at, sign)| {
        let before = text.get(..at).unwrap_or_default().trim_end();
        let after = text.get(at + sign.len()..).unwrap_or_default().trim_start();
        before.ends_with(|c: char| c.is_ascii_alphabetic())
            && after.starts_with(|c: char| c.is_ascii_alphabetic())
    })
}

/// Several capitals of which one is inverted or transposed, or several in bold: no matrix is
/// divided by, and `L T^{-1}` is a dimension.
fn has_matrices(text: &str) -> bool {
    const BOLD: [&str; 3] = ["\\mathbf", "\\boldsymbol", "\\bm"];
    if ["\\frac", "/", "\\begin"]
        .iter()
        .any(|sign| text.contains(sign))
    {
        return false;
    }
    let bold = |sign: &str| {
        text.split(sign)
            .skip(1)
            .filter(|rest| {
                rest.trim_start_matches(['{', ' '])
                    .starts_with(|c: char| c.is_ascii_uppercase())
            })
            .count()
    };
    if BOLD.iter().map(|sign| bold(sign)).sum::<usize>() > 1 {
        return true;
    }
    let marks = ["^{-1}", "^T", "^{T}", "^\\top", "^{\\top}"];
    let marked = marks.iter().any(|mark| {
        text.match_indices(mark).any(|(at, _)| {
            text.get(..at).is_some_and(|before| {
                before
                    .trim_end()
                    .ends_with(|c: char| c.is_ascii_uppercase() || c == ')' || c == '}')
            })
        })
    });
    let mut capitals: Vec<char> = text
        .replace("^T", "")
        .replace("^{T}", "")
        .chars()
        .filter(char::is_ascii_uppercase)
        .collect();
    capitals.sort_unstable();
    capitals.dedup();
    marked && capitals.len() > 1 && !capitals.iter().all(|letter| "LMT".contains(*letter))
}
