//! Texts that a model could write, by intent or by accident, to stall, crash or fool its judge.
//! Every plugin must have a verdict on each within its limits; `r1ctl plugin check` and the tests
//! of the shipped plugins make sure of it.

/// Length of the long texts.
pub const ATTACK_BYTES: usize = 1 << 20;

/// The texts, each behind a few words that describe it.
pub fn texts() -> Vec<(&'static str, String)> {
    [formulas(), floods(), characters(), traps()].concat()
}

fn long(text: &str) -> String {
    text.repeat(ATTACK_BYTES / text.len())
}

/// Formulas that are deep, long, or huge in value.
fn formulas() -> Vec<(&'static str, String)> {
    vec![
        ("a tower of powers", r"\boxed{9^{9^{9^{9}}}}".to_owned()),
        (
            "fractions 10,000 deep",
            format!(
                r"\boxed{{{}1{}}}",
                r"\frac{1}{".repeat(10_000),
                "}".repeat(10_000)
            ),
        ),
        (
            "fractions left open",
            format!(r"\boxed{{{}", long(r"\frac{")),
        ),
        ("boxes left open", long(r"\boxed{")),
        ("a million digits", format!(r"\boxed{{{}}}", long("9"))),
        (
            "a million decimals",
            format!("<answer>0.{}1</answer>", long("0")),
        ),
        ("a huge exponent", "<answer>1e999999999</answer>".into()),
        ("a tiny exponent", "<answer>1e-4000</answer>".into()),
        ("factorials", "<answer>9!!!!!!!!!!!!!!!!</answer>".into()),
        (
            "a product of powers",
            format!("<answer>{}</answer>", "99999^99999*".repeat(1_000)),
        ),
        (
            "roots 10,000 deep",
            format!(
                r"\boxed{{{}2{}}}",
                r"\sqrt{".repeat(10_000),
                "}".repeat(10_000)
            ),
        ),
        (
            "a matrix of 100,000 cells",
            format!(
                r"\boxed{{\begin{{pmatrix}}{}1\end{{pmatrix}}}}",
                r"1&1\\".repeat(50_000)
            ),
        ),
        (
            "a set of 100,000",
            format!(r"\boxed{{\{{{}1\}}}}", "1,".repeat(100_000)),
        ),
        (
            "parentheses left open",
            format!("<answer>{}</answer>", long("(")),
        ),
    ]
}

/// Words, tags and signs without end.
fn floods() -> Vec<(&'static str, String)> {
    vec![
        (
            "division without end",
            format!("<answer>{}</answer>", long("1/")),
        ),
        (
            "thousands without end",
            format!("<answer>{}</answer>", "1,000".repeat(800)),
        ),
        ("one long word", format!("<answer>{}</answer>", long("a"))),
        (
            "a phrase again and again",
            format!("<answer>{}</answer>", long("The answer is ")),
        ),
        ("dollar signs", format!("<answer>{}</answer>", long("$"))),
        ("opening tags", long("<answer>")),
        ("closing tags", long("</answer>")),
        ("thoughts left open", long("<think>")),
        (
            "answers without end",
            format!("{}</think>", long("<answer></answer>")),
        ),
    ]
}

/// Characters that are hard to see, to order or to count.
fn characters() -> Vec<(&'static str, String)> {
    vec![
        ("blanks", long(" ")),
        ("blanks and one letter", format!("{}x", long(" \t"))),
        ("braces", long("{")),
        ("backslashes", long("\\")),
        ("zero bytes", long("\0")),
        ("marks and emoji", long("é\u{202e}\u{0300}🦀")),
        (
            "control characters",
            format!(
                "<answer>{}7</answer>",
                "\u{1}\u{7}\u{8}\u{1b}\u{7f}\u{85}".repeat(1_000)
            ),
        ),
        (
            "what has no width",
            format!(
                "<answer>{}7</answer>",
                "\u{200b}\u{200d}\u{2060}\u{feff}".repeat(1_000)
            ),
        ),
        (
            "right to left",
            format!("<answer>\u{202e}{}\u{202c}</answer>", long("٧ سبعة ")),
        ),
        ("ideographs without end", long("答案是七")),
        (
            "marks upon a letter",
            format!("<answer>e{}</answer>", long("\u{0301}")),
        ),
        (
            "words that are all different",
            (0..150_000).map(|i| format!("w{i} ")).collect(),
        ),
    ]
}

/// What some parsers and interpreters choke on.
fn traps() -> Vec<(&'static str, String)> {
    vec![
        ("letters that grow in lower case", long("İ")),
        ("braces closed only", long("}")),
        ("code fences", long("```\n")),
        (
            "tags within tags",
            format!(
                "{}{}",
                "<think><answer>".repeat(30_000),
                "</answer></think>".repeat(30_000)
            ),
        ),
        (
            "exponents upon exponents",
            format!("<answer>{}</answer>", "2^".repeat(ATTACK_BYTES / 4)),
        ),
        ("signs", format!("<answer>{}7</answer>", long("-"))),
        (
            "radicals of radicals",
            format!(
                "<answer>{}</answer>",
                (1..400)
                    .map(|i| format!(r"\sqrt{{{i}}}+"))
                    .collect::<String>()
            ),
        ),
        (
            "polynomials to a high power",
            format!("<answer>{}</answer>", "(x+1)^{99}".repeat(50)),
        ),
        (
            "what catastrophic regular expressions choke on",
            format!("<answer>{}!</answer>", "a".repeat(ATTACK_BYTES / 2)),
        ),
        (
            "a zero byte in the answer",
            "<answer>\u{0}7\u{0}</answer>".into(),
        ),
        (
            "a program that never ends",
            "```python\nwhile True: pass\n```".into(),
        ),
        (
            "a program that takes all memory",
            "```python\nx = [0]\nwhile True: x = x + x\n```".into(),
        ),
        ("nothing", String::new()),
    ]
}
