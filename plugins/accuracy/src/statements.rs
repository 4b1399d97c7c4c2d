//! Statements of a relation that no value has: `AB \perp CD`, `a \mid b`, `A \subset B`, `\exists x
//! \in \mathbb{R}, x^2 \le 0`.
//!
//! Two are the same where sign and sides are; sides of a symmetric sign may change places, and `B
//! \supset A` is `A \subset B`. A congruence names corners in their order, so its sides are
//! compared as they are written.

/// How a sign is written, what it is, and whether its sides may change places. Signs that begin as
/// others do come first.
const SIGNS: [(&str, Sign, bool); 21] = [
    ("\\nmid", Sign::No("divides"), false),
    ("\\mid", Sign::Yes("divides"), false),
    ("∣", Sign::Yes("divides"), false),
    ("|", Sign::Yes("divides"), false),
    ("\\perp", Sign::Yes("perpendicular"), true),
    ("⊥", Sign::Yes("perpendicular"), true),
    ("\\nparallel", Sign::No("parallel"), true),
    ("\\parallel", Sign::Yes("parallel"), true),
    ("∥", Sign::Yes("parallel"), true),
    ("\\ncong", Sign::No("congruent"), true),
    ("\\cong", Sign::Yes("congruent"), true),
    ("≅", Sign::Yes("congruent"), true),
    ("\\subseteq", Sign::Yes("subset or same"), false),
    ("\\subsetneqq", Sign::Yes("proper subset"), false),
    ("\\subsetneq", Sign::Yes("proper subset"), false),
    ("\\subset", Sign::Yes("subset"), false),
    ("⊆", Sign::Yes("subset or same"), false),
    ("⊂", Sign::Yes("subset"), false),
    ("\\supseteq", Sign::Turned("subset or same"), false),
    ("\\supsetneq", Sign::Turned("proper subset"), false),
    ("\\supset", Sign::Turned("subset"), false),
];

#[derive(Clone, Copy)]
enum Sign {
    Yes(&'static str),
    No(&'static str),
    /// A relation written with its sides the other way round.
    Turned(&'static str),
}

/// A relation of two sides, or a statement that something exists.
#[derive(Debug, PartialEq)]
pub(crate) enum Statement<'t> {
    Relation {
        name: &'static str,
        denied: bool,
        symmetric: bool,
        sides: (&'t str, &'t str),
    },
    /// `\exists bound, said`.
    Exists { bound: &'t str, said: &'t str },
}

impl<'t> Statement<'t> {
    /// The statement that a text is, whole; `None` for one that has no such sign, or several.
    pub(crate) fn read(text: &'t str) -> Option<Statement<'t>> {
        if let Some(rest) = text
            .strip_prefix("\\exists")
            .or_else(|| text.strip_prefix('∃'))
        {
            let (bound, said) = rest.split_once([',', ':'])?;
            return Some(Statement::Exists {
                bound: bound.trim(),
                said: said.trim(),
            });
        }
        let (at, (written, sign, symmetric)) = sign_of(text)?;
        let (before, behind) = (text.get(..at)?, text.get(at + written.len()..)?);
        if sign_of(behind).is_some()
            || behind.contains(['=', ',', '<', '>'])
            || before.contains(['=', ',', '<', '>'])
        {
            return None;
        }
        let (left, not) = match before.trim_end().strip_suffix("\\not") {
            Some(left) => (left.trim(), true),
            None => (before.trim(), false),
        };
        let (name, denied, sides) = match *sign {
            Sign::Yes(name) => (name, not, (left, behind.trim())),
            Sign::No(name) => (name, !not, (left, behind.trim())),
            Sign::Turned(name) => (name, not, (behind.trim(), left)),
        };
        (!left.is_empty() && !behind.trim().is_empty()).then_some(Statement::Relation {
            name,
            denied,
            symmetric: *symmetric,
            sides,
        })
    }

    /// Whether two statements are the same: `side` compares their sides, `said` what is stated to
    /// exist.
    pub(crate) fn same(
        &self,
        other: &Statement,
        side: impl Fn(&str, &str) -> bool,
        said: impl Fn(&str, &str) -> bool,
    ) -> bool {
        let written = |a: &str, b: &str| {
            a.split_whitespace().eq(b.split_whitespace()) || squeezed(a) == squeezed(b)
        };
        match (self, other) {
            (
                Statement::Relation {
                    name,
                    denied,
                    symmetric,
                    sides: (left, right),
                },
                Statement::Relation {
                    name: other_name,
                    denied: other_denied,
                    sides: (other_left, other_right),
                    ..
                },
            ) => {
                let same = |a: &str, b: &str| written(a, b) || (*name != "congruent" && side(a, b));
                name == other_name
                    && denied == other_denied
                    && ((same(left, other_left) && same(right, other_right))
                        || (*symmetric && same(left, other_right) && same(right, other_left)))
            }
            (
                Statement::Exists { bound, said: own },
                Statement::Exists {
                    bound: other_bound,
                    said: other,
                },
            ) => written(bound, other_bound) && (written(own, other) || said(own, other)),
            _ => false,
        }
    }
}

/// The first sign that stands in no brackets, and where.
fn sign_of(text: &str) -> Option<(usize, &'static (&'static str, Sign, bool))> {
    let mut depth = 0i32;
    for (at, c) in text.char_indices() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            '\\' | '|' | '∣' | '⊥' | '∥' | '≅' | '⊆' | '⊂' if depth == 0 => {
                let rest = text.get(at..)?;
                let whole = |sign: &str| {
                    rest.strip_prefix(sign).is_some_and(|behind| {
                        c != '\\' || !behind.starts_with(|c: char| c.is_ascii_alphabetic())
                    })
                };
                if let Some(found) = SIGNS.iter().find(|(sign, ..)| whole(sign)) {
                    return Some((at, found));
                }
            }
            _ => {}
        }
    }
    None
}

fn squeezed(text: &str) -> String {
    text.chars().filter(|c| !c.is_whitespace()).collect()
}

#[cfg(test)]
mod tests {
    use super::Statement;

    fn same(a: &str, b: &str) -> bool {
        let (Some(a), Some(b)) = (Statement::read(a), Statement::read(b)) else {
            return false;
        };
        a.same(&b, |_, _| false, |_, _| false)
    }

    #[test]
    fn sides_and_signs() {
        for (a, b) in [
            (r"AB\perp CD", r"CD \perp AB"),
            (r"a\mid b", "a | b"),
            (r"A\subset B", r"B \supset A"),
            (r"a \not\mid b", r"a\nmid b"),
            (
                r"\exists x\in\mathbb{R},x^2\le0",
                r"\exists x \in \mathbb{R}, x^2\le 0",
            ),
        ] {
            assert!(same(a, b), "{a} and {b}");
        }
        for (a, b) in [
            (r"a\mid b", r"b\mid a"),
            (r"a\mid b", r"a\nmid b"),
            (r"A\subset B", r"B\subset A"),
            (r"AB\perp CD", r"AB\parallel CD"),
            (
                r"\triangle ABC\cong\triangle DEF",
                r"\triangle ACB\cong\triangle DEF",
            ),
        ] {
            assert!(!same(a, b), "{a} and {b}");
        }
        for text in ["|x|", r"\{x\mid x>0\}", r"P(A\mid B)", "x = 5", r"|a|<|b|"] {
            assert_eq!(Statement::read(text), None, "{text}");
        }
    }
}
