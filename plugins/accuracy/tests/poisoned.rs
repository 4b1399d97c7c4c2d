//! Answers made to keep a judge busy, or to break it. Each ends in 0 with a reason; what they cost
//! in fuel is checked in the sandbox.

use accuracy::Accuracy;
use reward_sdk::{Completion, Reward};

fn poisoned() -> Vec<(&'static str, String)> {
    let repeated = |text: &str, times: usize| text.repeat(times);
    let joined = |texts: Vec<String>, by: &str| texts.join(by);
    vec![
        ("9", r"9^{9^{9^{9}}}".into()),
        ("9", "9**9**9**9".into()),
        ("1", format!("{}1{}", repeated(r"\frac{1}{", 10_000), repeated("}", 10_000))),
        ("1", format!("{}1{}", repeated(r"\frac{1}{", 300), repeated("}", 300))),
        ("1", repeated("9", 1 << 20)),
        ("1", format!("0.{}", repeated("3", 4_000))),
        ("1", format!("{}1{}", repeated("(", 1_900), repeated(")", 1_900))),
        ("1", repeated(r"\left", 500)),
        ("1", repeated("-", 4_000)),
        ("1", repeated("^", 4_000)),
        ("1", repeated("|", 4_000)),
        ("1", repeated(r"\text{", 600)),
        ("1", format!("x{}", repeated("/x", 900))),
        ("1", format!("x{}", repeated("%", 2_000))),
        ("1", format!("x{}", repeated("!", 2_000))),
        ("1", format!("x{}", repeated("^x", 900))),
        ("1", format!("(1,2){}", repeated(r"\cup(1,2)", 300))),
        ("1", "100000!".into()),
        ("1", format!("{} a_k", repeated(r"\sum_{k=1}^{n}", 22))),
        ("1", format!("{} (k+n)^8", repeated(r"\sum_{k=1}^{n}", 6))),
        ("n", r"\sum_{k=1}^{n}(k+a+b+c+d+f+g+h)^8".into()),
        ("x>3", r"|\sqrt{|\sqrt{|x-1|}-2|}-1|<1".into()),
        ("x>3", r"\sqrt{x-\sqrt{x-\sqrt{x-\sqrt{x-1}}}}<x".into()),
        ("x>3", format!("{0}^x>{0}0", repeated("7", 1_500))),
        ("x>3", format!(r"\ln x>{}", repeated("7", 1_500))),
        ("1", "((100!)!)!".into()),
        ("1", r"\binom{1000000}{500000}".into()),
        ("1", "2^{100000}-2^{100000}".into()),
        ("1", "(((2^{1000})^{1000})^{1000})".into()),
        ("1", "e^{e^{e^{e^{e}}}}".into()),
        ("1", "10^{-10^{10}}".into()),
        ("1", "1e999999999999999999".into()),
        ("x", "(x+1)^{1000000}".into()),
        ("(x+1)^{5000}", "(1+x)^{5001}".into()),
        ("2", r"(1+\sqrt{2})^{9999}".into()),
        ("1", repeated(r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", 100)),
        ("1", joined((2..300).map(|i| format!(r"\sqrt{{{i}}}")).collect(), "+")),
        ("1", joined((2..250).map(|i| format!(r"\sin({i})")).collect(), "+")),
        ("1", joined((2..250).map(|i| format!(r"\ln({i})")).collect(), "\\cdot ")),
        // Too large for exact values, so that residues are looked at, of numbers with many roots.
        ("1", joined((2..60).map(|i| format!(r"\frac{{1}}{{(x-\sqrt{{{i}}})^2+1}}")).collect(),
            "+")),
        ("1", format!("{}1{}", repeated(r"\frac{1}{x+\sqrt{2}+", 90), repeated("}", 90))),
        ("1", joined((2..70).map(|i| format!(r"(x+\frac{{{i}}}{{7}}\sqrt{{{i}}})^{{9973}}"))
            .collect(),
            "+")),
        (r"\sin x", repeated(r"\sin x+\cos x", 40)),
        (r"\sin x", format!(r"\sin({})", repeated("x+", 200) + "1")),
        // A difference far beyond any float, and one beyond what is looked at.
        ("5", r"\sqrt{25+10^{-100}}".into()),
        ("5", r"\sqrt{25+10^{-3000}}".into()),
        (r"\pi", r"\pi+10^{-1400}".into()),
        ("1", r"\frac{0}{0}".into()),
        ("1", r"\tan\frac{\pi}{2}".into()),
        ("1", r"\ln 0".into()),
        ("1", r"\log_1 5".into()),
        ("0", "0^{-1}".into()),
        ("1", joined((0..900).map(|i| i.to_string()).collect(), ",")),
        ("1", repeated("1\\pm", 200) + "1"),
        ("1", repeated("\\pm1,", 300) + "1, 2"),
        ("1", repeated("x=", 700) + "2"),
        // Dots and sums that are looked for a rule, pieces that are looked at between points.
        ("1", joined((1..200).map(|i| i.to_string()).collect(), "+") + r"+\cdots+n"),
        ("1", repeated(r"(1+2+\cdots+n)+", 100) + "1"),
        ("1", format!("{}1{}", repeated(r"(1+2+\cdots+", 20), repeated(")", 20))),
        ("1", r"1^{2^{3}}+2^{3^{4}}+\cdots+9^{9^{9}}".into()),
        ("1", r"\frac{x}{1+x}+\frac{x^2}{1+x^2}+\cdots+\frac{x^{999999}}{1+x^{999999}}".into()),
        ("1", r"\{1,2,\ldots,999999999999\}".into()),
        ("1", r"2+4+8+\cdots+2^{99999}".into()),
        ("1", r"\sum_{k=1}^{n}\frac{1}{(k+1)(k+2)(k+3)(k+4)(k+5)(k+6)(k+7)(k+8)(k+9)(k+10)(k+11)(k+12)}".into()),
        ("1", r"\sum_{k=1}^{\infty}\frac{1}{k(k+999999999)}".into()),
        ("n", repeated(r"\lfloor ", 20) + "n" + &repeated(r"/2+1 \rfloor", 20)),
        ("n", joined((2..60).map(|i| format!(r"\lfloor \sqrt[3]{{n+{i}}}\rfloor")).collect(), "+")),
        ("x", joined((2..90).map(|i| format!("|x-{i}|")).collect(), "+")),
        ("x", joined((2..60).map(|i| format!(r"|\sin({i}x)|")).collect(), "+")),
        ("x", format!(r"\max({})", joined((2..90).map(|i| format!("x^{i}")).collect(), ","))),
        ("1", repeated(r"(1+\sqrt{5})^n", 60)),
        ("1", r"(-1)^{(-1)^{(-1)^{n}}}".into()),
        ("1", repeated("(1,2)+t", 100) + "(3,4)"),
        (r"\{1\}", r"\{x\in\mathbb{Z}\mid -10^{18}<x<10^{18}\}".into()),
    ]
}

#[test]
fn poisoned_answers_are_wrong_answers() {
    for (reference, answer) in poisoned() {
        let completion = Completion {
            text: format!(r"\boxed{{{answer}}}"),
            reference: Some(reference.into()),
            ..Completion::default()
        };
        let score = Accuracy::default().score(&completion).unwrap();
        assert_eq!(score.value, 0.0, "{}", &answer[..answer.len().min(60)]);
        assert!(
            score.reason.is_some_and(|reason| reason.len() < 300),
            "{}",
            &answer[..answer.len().min(60)]
        );
    }
}
