//! What must hold for every answer, tried on random ones.

use accuracy::Accuracy;
use proptest::prelude::*;
use reward_sdk::{Completion, Error, Reward};

/// Returns the score, 1 or 0; `None` for a reference that cannot be used.
fn verdict(reference: &str, answer: &str) -> Option<f32> {
    let completion = Completion {
        text: format!("<answer>{answer}</answer>"),
        reference: Some(reference.into()),
        ..Completion::default()
    };
    match Accuracy::default().score(&completion) {
        Ok(score) => Some(score.value),
        Err(Error::Unscorable(_)) => None,
        Err(Error::Internal(why)) => panic!("{reference} | {answer}: {why}"),
    }
}

/// A formula that is defined everywhere: divisors are numbers, or squares plus one.
#[derive(Clone, Debug)]
enum Formula {
    Number(i64),
    Fraction(i64, i64),
    Variable(char),
    Root(u32),
    Sum(Box<Formula>, Box<Formula>),
    Difference(Box<Formula>, Box<Formula>),
    Product(Box<Formula>, Box<Formula>),
    Quotient(Box<Formula>, Box<Formula>),
    Power(Box<Formula>, u32),
}

fn formula() -> impl Strategy<Value = Formula> {
    let leaf = prop_oneof![
        (-20i64..=20).prop_map(Formula::Number),
        (-20i64..=20, 2i64..=12).prop_map(|(above, below)| Formula::Fraction(above, below)),
        prop::sample::select(vec!['x', 'y', 'n', 't']).prop_map(Formula::Variable),
        (2u32..=30).prop_map(Formula::Root),
    ];
    leaf.prop_recursive(3, 12, 2, |inner| {
        let pair = || {
            (
                inner.clone().prop_map(Box::new),
                inner.clone().prop_map(Box::new),
            )
        };
        prop_oneof![
            pair().prop_map(|(a, b)| Formula::Sum(a, b)),
            pair().prop_map(|(a, b)| Formula::Difference(a, b)),
            pair().prop_map(|(a, b)| Formula::Product(a, b)),
            pair().prop_map(|(a, b)| Formula::Quotient(a, b)),
            (inner.clone().prop_map(Box::new), 1u32..=3).prop_map(|(a, n)| Formula::Power(a, n)),
        ]
    })
}

/// How a formula is put on paper: LaTeX or plain, sums and products from either end.
#[derive(Clone, Copy, Debug)]
struct Style {
    plain: bool,
    turned: bool,
}

fn written(formula: &Formula, style: Style) -> String {
    let wrapped = |formula: &Formula| match formula {
        Formula::Variable(_) => written(formula, style),
        _ if style.plain => format!("({})", written(formula, style)),
        _ => format!(r"\left({}\right)", written(formula, style)),
    };
    let joined = |a: &Formula, b: &Formula, sign: &str| {
        let (first, second) = if style.turned { (b, a) } else { (a, b) };
        format!("{}{sign}{}", wrapped(first), wrapped(second))
    };
    match formula {
        Formula::Number(value) => value.to_string(),
        Formula::Fraction(above, below) if style.plain => format!("{above}/{below}"),
        Formula::Fraction(above, below) => format!(r"\dfrac{{{above}}}{{{below}}}"),
        Formula::Variable(name) => name.to_string(),
        Formula::Root(value) if style.plain => format!("sqrt({value})"),
        Formula::Root(value) => format!(r"\sqrt{{{value}}}"),
        Formula::Sum(a, b) => joined(a, b, " + "),
        Formula::Difference(a, b) if style.turned => format!("-{} + {}", wrapped(b), wrapped(a)),
        Formula::Difference(a, b) => format!("{} - {}", wrapped(a), wrapped(b)),
        Formula::Product(a, b) => joined(a, b, if style.plain { "*" } else { r" \cdot " }),
        Formula::Quotient(a, b) if style.plain => format!("({})/({}^2+1)", wrapped(a), wrapped(b)),
        Formula::Quotient(a, b) => {
            format!(r"\frac{{{}}}{{{}^{{2}}+1}}", written(a, style), wrapped(b))
        }
        Formula::Power(a, n) => format!("{}^{{{n}}}", wrapped(a)),
    }
}

const STYLES: [Style; 4] = [
    Style {
        plain: false,
        turned: false,
    },
    Style {
        plain: false,
        turned: true,
    },
    Style {
        plain: true,
        turned: false,
    },
    Style {
        plain: true,
        turned: true,
    },
];

/// Texts of the pieces that answers are made of, in any order.
fn scrambled() -> impl Strategy<Value = String> {
    const PIECES: [&str; 74] = [
        "1",
        "2",
        "10",
        "0",
        "3.5",
        "1,234",
        "x",
        "y",
        "e",
        "i",
        "pi",
        "+",
        "-",
        "*",
        "/",
        "^",
        "_",
        "!",
        "%",
        "=",
        "<",
        ">",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        "|",
        ",",
        ";",
        ":",
        "&",
        "$",
        " ",
        "\\frac",
        "\\sqrt",
        "\\pi",
        "\\infty",
        "\\cup",
        "\\cap",
        "\\setminus",
        "\\in",
        "\\pm",
        "\\{",
        "\\}",
        "\\left",
        "\\right",
        "\\text{cm}",
        "\\text{ and }",
        " or ",
        "\\sin",
        "\\ln",
        "\\log_2",
        "\\binom",
        "\\lfloor",
        "\\rfloor",
        "\\begin{pmatrix}",
        "\\end{pmatrix}",
        "\\\\",
        "\\circ",
        "^{-1}",
        "\\mathbb{R}",
        "\\overline{3}",
        "0.",
        "\\ldots",
        "\\le",
        "\\neq",
        "√",
        "²",
        "½",
        "∞",
        "é",
        "\\",
    ];
    prop::collection::vec(prop::sample::select(PIECES.to_vec()), 0..24)
        .prop_map(|pieces| pieces.concat())
}

/// Number of cases: `make properties` tries many more than `make test`.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES")
        .ok()
        .and_then(|cases| cases.parse().ok())
        .unwrap_or(400)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None,
        ..ProptestConfig::default() })]

    #[test]
    fn one_formula_is_the_same_in_every_style(formula in formula()) {
        let reference = written(&formula, STYLES[0]);
        for style in STYLES {
            let answer = written(&formula, style);
            prop_assert_eq!(verdict(&reference, &answer), Some(1.0), "{} | {}", reference, answer);
        }
    }

    #[test]
    fn another_value_is_not_the_same(formula in formula(), by in 1i64..=9, below in 1i64..=7) {
        let reference = written(&formula, STYLES[0]);
        for style in STYLES {
            let answer =
                format!(r"\left({}\right) + \frac{{{by}}}{{{below}}}", written(&formula, style));
            prop_assert_eq!(verdict(&reference, &answer), Some(0.0), "{} | {}", reference, answer);
        }
    }

    #[test]
    fn equality_goes_both_ways(a in formula(), b in formula()) {
        let (a, b) = (written(&a, STYLES[0]), written(&b, STYLES[3]));
        prop_assert_eq!(verdict(&a, &b), verdict(&b, &a), "{} | {}", a, b);
    }

    #[test]
    fn no_text_ends_in_a_panic(a in scrambled(), b in scrambled()) {
        let _ = (verdict(&a, &b), verdict("x + 1", &b), verdict(&a, "x + 1"));
    }

    #[test]
    fn what_can_be_read_equals_itself(a in scrambled()) {
        if verdict(&a, "1").is_some() && !a.trim().is_empty() {
            prop_assert_eq!(verdict(&a, &a), Some(1.0), "{}", a);
        }
    }
}
