//! Rewrites a template before it is compiled: where minijinja's grammar differs from jinja2's, the
//! values go through functions.
//!
//! jinja2's `~` joins texts as Python shows them; minijinja shows floats in its own way (1e16,
//! 1e-05). So each operand of a `~` goes through [`SHOWN`]: `a ~ b | trim` becomes `shown(a) ~
//! shown(b | trim)`. In Python None cannot be iterated, and neither None nor an undefined value can
//! be sliced; in minijinja both are empty. So the values that `for` and `loop(…)` iterate go
//! through [`ITERATED`], and values that are sliced go through [`SLICED`].
//!
//! An operand ends at the same place in both grammars: `~` binds less than `*`, filters and tests,
//! and more than `+`, comparisons and the rest.

/// The functions that the rewritten template calls; no template uses these names itself.
pub(crate) const SHOWN: &str = "__shown";
pub(crate) const ITERATED: &str = "__iterated";
pub(crate) const SLICED: &str = "__sliced";

/// Words that end an operand, besides the word that a statement begins with.
const WORDS: [&str; 8] = ["and", "or", "not", "in", "if", "else", "elif", "recursive"];

/// Rewrites a template so that every `~`, `for`, `loop(…)` and slice uses the functions.
pub(crate) fn as_in_python(text: &str) -> String {
    let mut result = String::new();
    let mut rest = text;
    while let Some(place) = rest.find('{') {
        let (before, tag) = rest.split_at(place);
        result.push_str(before);
        let inside = match tag.get(..2) {
            Some("{{") => expression(tag, "}}"),
            Some("{%") => expression(tag, "%}"),
            Some("{#") => tag.find("#}").map(|end| (None, end + 2)),
            _ => Some((None, 1)),
        };
        // The compiler refuses a tag that is not closed.
        let Some((tokens, length)) = inside else {
            return result + tag;
        };
        let (whole, behind) = tag.split_at(length);
        rest = behind;
        match tokens {
            Some(tokens) if is_raw(&tokens) => {
                let end = rest.find("endraw").unwrap_or(rest.len());
                let (raw, behind) = rest.split_at(end);
                result.push_str(whole);
                result.push_str(raw);
                rest = behind;
            }
            Some(tokens) => result.push_str(&tag_text(&tokens)),
            _ => result.push_str(whole),
        }
    }
    result + rest
}

fn is_raw(tokens: &[&str]) -> bool {
    statement(tokens) == Some("raw")
}

/// The word that a statement begins with; `None` for a tag that is not a statement.
fn statement<'a>(tokens: &[&'a str]) -> Option<&'a str> {
    // `{% call %}` is a statement, `{{ call }}` a variable.
    let is_statement = tokens.first().is_some_and(|mark| mark.starts_with("{%"));
    tokens
        .iter()
        .find(|token| is_statement && is_word(token))
        .copied()
}

fn tag_text(tokens: &[&str]) -> String {
    let outside = |words: &'static [&'static str], from: usize| {
        let mut depth = 0usize;
        tokens
            .iter()
            .enumerate()
            .skip(from)
            .find_map(|(at, token)| {
                match *token {
                    "(" | "[" | "{" => depth += 1,
                    ")" | "]" | "}" => depth = depth.saturating_sub(1),
                    word if depth == 0 && words.contains(&word) => return Some(at),
                    _ => {}
                }
                None
            })
    };
    let Some(from) = outside(&["in"], 0)
        .filter(|_| statement(tokens) == Some("for"))
        .map(|at| at + 1)
    else {
        return shown(tokens);
    };
    // The closing mark is the last token.
    let to = outside(&["if", "recursive"], from)
        .unwrap_or(tokens.len().saturating_sub(1))
        .max(from);
    let (head, items, tail) = (
        tokens.get(..from).unwrap_or_default(),
        tokens.get(from..to).unwrap_or_default(),
        tokens.get(to..).unwrap_or_default(),
    );
    format!(
        "{} {ITERATED}({}) {}",
        head.concat(),
        shown(items).trim(),
        shown(tail)
    )
}

/// The tokens of a tag, blanks included, and its length in bytes. The first token is the opening
/// mark and the last the closing one, with their `-` or `+`.
fn expression<'a>(tag: &'a str, close: &str) -> Option<(Option<Vec<&'a str>>, usize)> {
    let opening = 2 + usize::from(
        tag.get(2..)
            .is_some_and(|rest| rest.starts_with(['-', '+'])),
    );
    let mut tokens = vec![tag.get(..opening)?];
    let (mut at, mut depth) = (opening, 0usize);
    loop {
        let rest = tag.get(at..).filter(|rest| !rest.is_empty())?;
        let sign = usize::from(rest.starts_with(['-', '+']));
        if depth == 0 && rest.get(sign..).is_some_and(|rest| rest.starts_with(close)) {
            tokens.push(rest.get(..sign + 2)?);
            return Some((Some(tokens), at + sign + 2));
        }
        let token = rest.get(..length(rest)?)?;
        match token {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth = depth.saturating_sub(1),
            _ => {}
        }
        tokens.push(token);
        at += token.len();
    }
}

/// Length in bytes of the token that `text` begins with; `None` if a string is not closed.
fn length(text: &str) -> Option<usize> {
    let first = text.chars().next()?;
    let run = |belongs: fn(char) -> bool| text.find(|c| !belongs(c)).unwrap_or(text.len());
    Some(match first {
        '\'' | '"' => {
            let mut is_escaped = false;
            let end = text.char_indices().skip(1).find(|(_, c)| {
                let ends = *c == first && !is_escaped;
                is_escaped = *c == '\\' && !is_escaped;
                ends
            });
            end?.0 + 1
        }
        c if c.is_whitespace() => run(char::is_whitespace),
        '0'..='9' => number(text),
        c if c.is_alphanumeric() || c == '_' => run(|c| c.is_alphanumeric() || c == '_'),
        _ if ["**", "//", "==", "!=", "<=", ">="]
            .iter()
            .any(|two| text.starts_with(two)) =>
        {
            2
        }
        c => c.len_utf8(),
    })
}

/// Length in bytes of the number that `text` begins with: `3`, `1_000.5`, `1e-05`.
fn number(text: &str) -> usize {
    let digits = |at: usize| {
        let rest = text.get(at..).unwrap_or_default();
        rest.find(|c: char| !(c.is_alphanumeric() || c == '_'))
            .unwrap_or(rest.len())
    };
    let mut end = digits(0);
    let next = |at: usize| text.get(at..).and_then(|rest| rest.chars().next());
    if next(end) == Some('.') && next(end + 1).is_some_and(|c| c.is_ascii_digit()) {
        end += 1 + digits(end + 1);
    }
    let has_exponent = text
        .get(..end)
        .is_some_and(|number| number.ends_with(['e', 'E']));
    if has_exponent && matches!(next(end), Some('-' | '+')) {
        end += 1 + digits(end + 1);
    }
    end
}

fn is_word(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphanumeric() || c == '_')
}

fn shown(tokens: &[&str]) -> String {
    let mut at = match statement(tokens) {
        Some(word) => tokens
            .iter()
            .position(|token| *token == word)
            .map_or(0, |word| word + 1),
        None => 0,
    };
    let mut result = tokens.get(..at).unwrap_or_default().concat();
    while at < tokens.len() {
        at = operand(tokens, at, &mut result);
        if let Some(delimiter) = tokens.get(at) {
            result.push_str(delimiter);
            at += 1;
        }
    }
    result
}

/// Writes the operand that begins at `start`. Returns where it ends: at a token that belongs to no
/// operand, or at the end. A `~` before or behind it means that it goes through [`SHOWN`].
fn operand(tokens: &[&str], start: usize, result: &mut String) -> usize {
    let (mut at, mut text, mut last) = (start, String::new(), "");
    // The place in the text where the value begins that a following bracket would call or index.
    let mut value = 0;
    while let Some(token) = tokens.get(at) {
        let is_blank = token.trim().is_empty();
        match *token {
            "(" | "[" | "{" => {
                let close = closing(tokens, at);
                let inside = tokens.get(at + 1..close).unwrap_or_default();
                if !is_value(last) {
                    value = text.len();
                }
                let (before, after) = match *token {
                    "(" if last == "loop" => (format!("({ITERATED}("), ")"),
                    "[" if is_value(last) && has_colon(inside) => {
                        text.truncate(text.trim_end().len());
                        text.insert_str(value, &format!("{SLICED}("));
                        (")[".into(), "")
                    }
                    _ => (token.to_string(), ""),
                };
                text.push_str(&before);
                text.push_str(&shown(inside));
                text.push_str(after);
                text.push_str(tokens.get(close).unwrap_or(&""));
                (at, last) = (close + 1, ")");
                continue;
            }
            _ if ends(token, last) => break,
            _ => {
                if !is_blank && *token != "." && last != "." {
                    value = text.len();
                }
                text.push_str(token);
            }
        }
        if !is_blank {
            last = token;
        }
        at += 1;
    }
    let before = tokens.get(..start).unwrap_or_default().last();
    let is_shown = before == Some(&"~") || tokens.get(at) == Some(&"~");
    let bare = text.trim();
    if !is_shown || bare.is_empty() {
        result.push_str(&text);
        return at;
    }
    let (leading, behind) = text.split_at(text.len() - text.trim_start().len());
    result.push_str(&format!(
        "{leading}{SHOWN}({bare}){}",
        behind.get(bare.len()..).unwrap_or_default()
    ));
    at
}

/// Whether a value may end in the token, so that a following bracket calls or indexes it.
fn is_value(token: &str) -> bool {
    token == ")"
        || token.starts_with(['\'', '"'])
        || (is_word(token) && !WORDS.contains(&token) && token != "is")
}

/// Whether the tokens have a colon outside all brackets among them.
fn has_colon(tokens: &[&str]) -> bool {
    let mut depth = 0usize;
    tokens.iter().any(|token| {
        match *token {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth == 0 && *token == ":"
    })
}

/// Whether a token belongs to no operand, given the token before it in the operand.
fn ends(token: &str, last: &str) -> bool {
    match token {
        // An attribute may have any name.
        _ if last == "." => false,
        "~" | "," | ":" | "=" | "==" | "!=" | "<" | ">" | "<=" | ">=" => true,
        // A sign belongs to what follows it.
        "+" | "-" => !(last.is_empty() || ["*", "/", "//", "%", "**", "-", "+"].contains(&last)),
        "not" | "in" => !["is", "not"].contains(&last),
        _ if token.starts_with("{{")
            || token.starts_with("{%")
            || token.ends_with("}}")
            || token.ends_with("%}") =>
        {
            true
        }
        word => WORDS.contains(&word),
    }
}

/// The index of the bracket that closes the one at `open`, or of the end.
fn closing(tokens: &[&str], open: usize) -> usize {
    let mut depth = 0usize;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match *token {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    tokens.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operands_reach_as_far_as_the_grammar_says() {
        for (text, shown) in [
            ("{{ a ~ b }}", "{{ S(a) ~ S(b) }}"),
            (
                "{{- 'it\\'s ~ }}' ~ x.in|trim -}}",
                "{{- S('it\\'s ~ }}') ~ S(x.in|trim) -}}",
            ),
            (
                "{% set x = 2 * -a ~ 'b' + c %}",
                "{% set x = S(2 * -a) ~ S('b') + c %}",
            ),
            (
                "{%- if a ~ b == c and d is not none %}",
                "{%- if S(a) ~ S(b) == c and d is not none %}",
            ),
            ("{{ a is not none ~ b }}", "{{ S(a is not none) ~ S(b) }}"),
            (
                "{{ f(a ~ b, c)[d ~ 1] ~ (e if g else h) }}",
                "{{ S(f(S(a) ~ S(b), c)[S(d) ~ S(1)]) ~ S((e if g else h)) }}",
            ),
            (
                "{{ {'k': a ~ b} }} {# a ~ b #} ~ {% raw %}{{ a ~ b }}{% endraw %}",
                "{{ {'k': S(a) ~ S(b)} }} {# a ~ b #} ~ {% raw %}{{ a ~ b }}{% endraw %}",
            ),
            (
                "{{ 1e-05 ~ 2.5e+3 - 1.0 ~ x.0.y }}",
                "{{ S(1e-05) ~ S(2.5e+3) - S(1.0) ~ S(x.0.y) }}",
            ),
            (
                "{% do call.set(a ~ b) %}{{ call.x ~ set }}",
                "{% do call.set(S(a) ~ S(b)) %}{{ S(call.x) ~ S(set) }}",
            ),
            (
                "{{ a ~ b if c else d ~ e }}",
                "{{ S(a) ~ S(b) if c else S(d) ~ S(e) }}",
            ),
            ("{{ a ~", "{{ a ~"),
            (
                "{% for a, b in x.items() if a ~ b %}",
                "{% for a, b in I(x.items()) if S(a) ~ S(b) %}",
            ),
            (
                "{%- for p in [1, 2] recursive -%}{{ loop(p.of) }}",
                "{%- for p in I([1, 2]) recursive -%}{{ loop(I(p.of)) }}",
            ),
            (
                "{% for p in m['in'][1:] %}{% if 'for' in x %}",
                "{% for p in I(C(m['in'])[1:]) %}{% if 'for' in x %}",
            ),
            (
                "{{ a + f(x)[0][:-1].b|trim ~ {'k': [c[1:]]} }}",
                "{{ a + S(C(f(x)[0])[:-1].b|trim) ~ S({'k': [C(c)[1:]]}) }}",
            ),
            (
                "{{ not a[::-1] and -b.c[1:] }}",
                "{{ not C(a)[::-1] and -C(b.c)[1:] }}",
            ),
            (
                "{% set d = {'a': [1]}['a'][f({1: 2})] %}",
                "{% set d = {'a': [1]}['a'][f({1: 2})] %}",
            ),
        ] {
            let expected = shown
                .replace("S(", "__shown(")
                .replace("I(", "__iterated(")
                .replace("C(", "__sliced(");
            let blanks = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
            assert_eq!(blanks(&as_in_python(text)), expected, "{text}");
        }
    }
}
