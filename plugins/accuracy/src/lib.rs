//! `accuracy`: 1 when the answer is the reference, else 0.
//!
//! **Where they stand.** The answer is what stands in the last `<answer>…</answer>` (its last
//! `\boxed{…}` when it holds one), else in the last `\boxed{…}` of the text, else there is none: 0,
//! reason `no answer`. Boxes that a comma, `and` or `or` joins are one list; where the last box is
//! cut off there is no answer. The reference is a final answer, or a worked solution that ends in
//! `#### N` or `\boxed{…}`. One that cannot be read makes the sample unscorable: it is masked,
//! never scored 0, because the fault is the data's.
//!
//! **Configuration.** `kind = "math"` (the default), `"choice"` or `"exact"`; `lenient = true` for
//! evaluation; `computed = true` where the problem itself is a formula.
//!
//! ## `math`
//!
//! LaTeX and plain text are read into one tree ([`parse`], [`formula`]) and compared for what they
//! mean, never as floats:
//!
//! | what | rule |
//! |---|---|
//! | numbers | exact: `0.5` is `\frac12` is `1/2` is `50\%`; `0.333` is not `1/3`, `0.\overline{3}` and `0.333\ldots` are. `1,234`, `1{,}234`, `1\,234`, `1 234`, `1'234` are one number; so are `1\frac12` and `1½`; `101_2` is 5; `twenty-five`, `2.5 \text{ million}`, `3^{\text{rd}}`, `１２` and `十二` are numbers |
//! | percentages | a percent is a hundredth: `50\%` is `0.5`, not `50` |
//! | words behind a number | are read as what they mean ([`qualifier`]): `5 \text{ ppm}`, `5 per thousand`, `3 \text{ dozen}`, `5 below zero`; what else changes a number is not read |
//! | units, money | may be missing on either side; two known ones must measure the same and are converted: `5 km` is `5` and `5000 m`, not `5 m`; `1 \text{ kWh}` is `3.6 \times 10^6 \text{ J}`; `3 \text{ dozen}` is 36, `12 \text{ out of } 20` is 3/5; what points the other way is not the same (`20\% increase`, `20\% decrease`); one of them beside what is counted is another (`5 \text{ kg}`, `5 \text{ boxes}`); a symbol that is not known is only itself; `5 \text{ M}` is no 5; `3 hours 20 minutes` is 200 minutes; `72 km/h` is `20 m/s`, `\$0.50` is 50 cents. Temperatures and currencies are not converted. What is counted (`18 eggs`) is left out |
//! | times | `3:05 PM` is `15:05`; the half of the day may be missing |
//! | degrees | `90^\circ` is `90`; within a sine they are an angle: `\sin 30^\circ` is `1/2` |
//! | formulas | equal when they are equal for all values of their variables: expanded or factored, `\sin 2x` or `2\sin x\cos x`, `\ln 8` or `3\ln 2`. Real roots and logarithms are compared where both sides are real: `\sqrt{x^2}` is `|x|`, not `x`. Absolute values, greatest and least, and roots are also looked at between their turning points ([`pieces`]): `|x-1|+|x+1|` is not `2|x|`. Floors and ceilings are looked at where they jump ([`steps`]): `\lceil x\rceil` is not `\lfloor x\rfloor+1`. In `(-1)^n` and `\lfloor n/2 \rfloor` the letter is a whole number: beside `(-1)^n`, `\cos n\pi` is `(-1)^n`. A logarithm is compared where both sides have one: `\ln x^2` is `2\ln x`, `\ln|x|` is `\ln x`, but `\ln(-x)` is not. A function of a number is one of radians: `\sin 30` is not `1/2` |
//! | names | are what they are: `x` is not `y`, nor `X`; `e` and `i` are the constants |
//! | functions | `f(2)` is the value of f at 2, not f times 2 ([`applications`]); `g(a + b)`, `P(1+r)^n` are products; `y''` is not `y'` |
//! | order | matrices, `A^{-1}B`, composed functions, `\vec a \times \vec b`, `p \to q`, similar triangles: equal only where they are written alike ([`ordered`]), else undecided; `-\vec b \times \vec a` is `\vec a \times \vec b`; `\angle ABC` is `\angle CBA`; a word in capitals is no product |
//! | antiderivatives | `\frac{x^3}{3} + C`: the constant may be called c, K, C_1, and have another value ([`antiderivatives`]) |
//! | binomials | `C_5^2`, `C_n^k`, `{}_nC_k`, `C(n, k)`, and `A_n^2` in order ([`binomials`]) |
//! | equations | `x = 5`, `f(2) = 5`, `|AB| = 5` give 5, the last exact side of a chain `x = 2+3 = 5 \approx 5.0`; `x = 5` is not `y = 5`. Others are equal when proportional or solved by the same function: `y = 2x+1`, `4x - 2y + 2 = 0` |
//! | inequalities | in one variable are their solutions: `x > 2`, `2 < x`, `-x < -2`, `(2, \infty)`; `x^2 < 4`, `|x| < 2`, `-2 < x < 2`; `\frac{1}{x} < 1`; `x \ne 3`; `x<1 \text{ or } x>2`, also with a comma between them, not with an `and`. Absolute values by cases ([`solve`]), rational functions whose roots are rational or of quadratics ([`polynomial`]); `\sqrt{x} < 3`, `2^x > 8`, `\ln x \ge 1` by their inverses ([`inverse`]) |
//! | sums | `\sum_{k=1}^{10} k^2` is written out; `\sum_{k=1}^{n} k`, `\sum_{k=0}^{\infty} \frac{k}{2^k}`, polynomials of the index and geometric series, have their closed form ([`series`]), so have rational functions whose terms cancel ([`telescope`]); others are equal where they are written alike. `1 + 2 + \cdots + n`, `1 \cdot 2 \cdots n`, `1, 2, \ldots, 10` are what their first terms and the last one say ([`progression`]) |
//! | congruences | are classes: `x \equiv 3 \pmod 7` is `x \equiv 10 \pmod 7` and `x = 7k + 3`; the number 3 is taken for it, 10 and `x = 3` are not. `17 \bmod 5` is 2 |
//! | parameters | `x = \frac{\pi}{6} + 2k\pi, k \in \mathbb{Z}`: the letter does not matter, nor where counting begins, nor whether one family is written as several ([`periodic`]): `(-1)^k\frac{\pi}{6} + k\pi`; intervals may be moved by a period. Conditions on a whole number are those that meet them: `\{x \in \mathbb{Z} \mid -2 < x < 2\}` is `\{-1, 0, 1\}`, and no interval |
//! | notes | on where a formula holds may be missing on either side: `\frac{1}{x}, x \ne 0`, `2x \ (x > 0)`, `\text{for all } x` ([`notes`]); two must agree |
//! | rows | of `aligned`, `gathered`, `split` are read one behind the other: a system, or a chain of equalities ([`rows`]) |
//! | cases | a system `\begin{cases} x = 1 \\ y = 2 \end{cases}` is `x = 1, y = 2`; a function by cases is compared case by case |
//! | intervals, sets of reals | by their points: `[0,1] \cup [1,2]` is `[0,2]`, `\mathbb{R} \setminus \{0\}`; `]0, 1[` is `(0, 1)` |
//! | sets, lists | in any order; `1, 2`, `1 \text{ and } 2`, `\{1, 2\}`, `x=1 \text{ or } x=2` alike; `\pm` is two values |
//! | tuples, points | in order: `(3, 4)` is `3, 4` and `x=3, y=4`, not `\{3, 4\}`, not `[3, 4]`, not `3 \text{ or } 4`; a point may have its name, `A(3, 4)`; sums and multiples are worked out, `(1, 2) + t(3, 4)` |
//! | vectors | by i, j, k are tuples: `\mathbf{i} - 2\mathbf{j}` is `(1, -2)` ([`vectors`]) |
//! | lines | by a point and a direction, where the reference says `\vec{r} = `: any point, any multiple, any parameter ([`lines`]) |
//! | remainders | `2 \text{ R } 3` is `2 \text{ remainder } 3`, and not 2 |
//! | matrices | entry by entry, sums, products and multiples worked out; `[[1,2],[3,4]]` is one |
//! | ratios | proportional: `3:4`, `6:8`, `3/4` |
//! | sentences | state a value, where no word before or behind it changes it: `The total is 68 clips, altogether.` ([`sentence`]) |
//! | statements | of a relation that no value has are compared by sign and sides ([`statements`]): `AB \perp CD` is `CD \perp AB`, `a \mid b` not `b \mid a`; also `\parallel`, `\subset`, `\cong`, `\exists` |
//! | Chinese | words of quantity and relation: `负五`, `三点一四`, `百分之五`, `3个半`, `x不大于3`, `无解` ([`chinese`]) |
//! | words | without case, articles and punctuation: `\text{Even}`, `even`; dates in either order; `①③` in any |
//!
//! **How equality is decided** ([`equal`]). Both sides are first brought to one form, in which the
//! order of terms and factors, and the laws of powers, logarithms and angles, make no difference
//! ([`normal`], [`laws`]): those that have one form are equal. Others are evaluated exactly at
//! seeded points, in rationals with square roots and an independent value for π, e, each logarithm
//! and each angle's point on the circle ([`points`]). Where no exact value is to be had of a part,
//! `e^{kt}` for instance, the part gets a letter of its own ([`atoms`]). What cannot be had so,
//! nested roots for instance, is evaluated in balls of growing precision ([`numeric`]): balls that
//! part show two values to be different; balls that still meet below the least distance that
//! formulas of their size can have show them equal. What is too large for either, and made of sums,
//! products, whole powers and square roots of numbers, is evaluated modulo a large seeded prime
//! ([`residues`]). The rest is undecided, which is never a pass.
//!
//! **Limits.** Answers of up to [`lexer::BYTES_MAX`] bytes are read; depth, sizes of numbers,
//! points, and what all evaluations may cost are bounded, so every answer ends in a verdict well
//! within the default fuel.
//!
//! `lenient` also takes: a percentage for its number (`50\%` for 50), degrees for radians, decimals
//! that agree to six places and six figures (`0.333333` for 1/3), a decimal comma, sets for tuples
//! and columns for points, `y = 5` for `x = 5`.
//!
//! `computed` refuses an answer that leaves sums undone where the reference is a numeral: `9 \cdot
//! 2` is 18, but a policy that is asked for `9 \cdot 2` would learn to repeat the question.
//! Fractions, powers of ten, units and `x = 18` are numerals.
//!
//! ## `choice`
//!
//! The letters that the answer chooses are those of the reference: `B`, `(b)`, `\text{(B)}`, `B.
//! twelve`, `the answer is B`; `A, C`. Sentences are read for what they choose and refuse
//! ([`verdicts`]): `A is wrong, so B`, `选项B正确`; those that leave it open choose nothing.
//!
//! ## `exact`
//!
//! The texts are the same but for white space; `lenient` also takes other case and a final full
//! stop.
//!
//! ## The way of an answer
//!
//! No file imports one that imports it. The rules of one parser, one normal form and one comparison
//! are methods in several files; they call each other as a grammar's do.
//!
//! | from | to | by |
//! |---|---|---|
//! | words | text | [`text`], [`spelled`], [`qualifier`], [`fonts`], [`sentence`], [`named`] |
//! | text | tokens ([`token`]) | [`lexer`], [`commands`], [`rows`], [`notes`], [`reversed`] |
//! | tokens | a tree ([`expression`]) | [`parser`] and its rules: [`parse`], [`formula`], [`brackets`], [`functions`], [`series`], [`times`], [`congruence`] |
//! | a tree | a normal form ([`terms`]) | [`normal`] and its rules: [`powers`], [`laws`] |
//! | a tree | values | [`points`], [`exponents`], [`numeric`], [`residues`], [`separation`] |
//! | two formulas | equal or not ([`comparison`]) | [`equal`], with [`atoms`], [`pieces`], [`steps`] |
//! | relations | sets of reals ([`real_set`]) | [`solve`], [`inverse`], [`polynomial`], [`linear`] |
//! | two answers | a verdict | [`compare`] and its rules: [`family`], [`periodic`], [`residue_classes`], [`noted`]; all of it from [`math`] |

mod antiderivatives;
mod applications;
mod atoms;
mod ball;
mod binomials;
mod brackets;
mod breaks;
mod cases;
mod chinese;
mod choice;
mod clock;
mod commands;
mod compare;
mod comparison;
mod congruence;
mod elementary;
mod equal;
mod equations;
mod exponents;
mod expression;
mod family;
mod fonts;
mod formula;
mod functions;
mod inverse;
mod laws;
mod lexer;
mod linear;
mod lines;
mod math;
mod matrix;
mod named;
mod names;
mod normal;
mod noted;
mod notes;
mod numerals;
mod numeric;
mod ordered;
mod parse;
mod parser;
mod periodic;
mod pieces;
mod points;
mod polynomial;
mod powers;
mod progression;
mod qualifier;
mod real_set;
mod remainder;
mod residue_classes;
mod residues;
mod reversed;
mod rows;
mod script;
mod sentence;
mod separation;
mod series;
mod solve;
mod spelled;
mod statements;
mod steps;
mod surd;
mod telescope;
mod terms;
mod text;
mod times;
mod token;
mod vectors;
mod verdicts;

use math::Outcome;
use reward_sdk::answers::{excerpt, of_completion, of_reference};
use reward_sdk::number;
use reward_sdk::{Completion, Error, Info, Result, Reward, Score};

/// The reward, with its settings.
#[derive(Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Accuracy {
    kind: Expected,
    lenient: bool,
    /// `math`: where the reference is a numeral, the answer must be one.
    computed: bool,
}

#[derive(Clone, Copy, Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum Expected {
    #[default]
    Math,
    Choice,
    Exact,
}

impl Reward for Accuracy {
    const INFO: Info = Info::new("accuracy", env!("CARGO_PKG_VERSION"));

    fn score(&self, completion: &Completion) -> Result<Score> {
        let reference = completion
            .reference
            .as_deref()
            .ok_or_else(|| Error::Unscorable("the row has no reference".into()))?;
        let (truth, given) = (of_reference(reference), of_completion(&completion.text));
        let truth = &*script::plain(&truth);
        // Without an answer the reference is looked at all the same: a bad one masks the sample.
        let given = given.as_deref().map(script::plain);
        let given = given.as_deref();
        let outcome = match self.kind {
            Expected::Math
                if self.computed
                    && number::read(truth).is_some()
                    && !states_number(given.unwrap_or_default()) =>
            {
                Outcome::Wrong(format!(
                    "not a number: {}",
                    excerpt(given.unwrap_or_default())
                ))
            }
            Expected::Math => math::judge(truth, given.unwrap_or_default(), self.lenient),
            Expected::Choice => choose(truth, given.unwrap_or_default()),
            Expected::Exact => exact(truth, given.unwrap_or_default(), self.lenient),
        };
        match (outcome, given) {
            (Outcome::Unusable(why), _) => Err(Error::Unscorable(why)),
            (_, None) => Ok(Score::fail("no answer")),
            (Outcome::Right, _) => Ok(Score::pass(true)),
            (Outcome::Wrong(why), _) => Ok(Score::fail(why)),
        }
    }
}

/// Whether an answer is a numeral, in figures or in words, or a sentence that states one.
fn states_number(answer: &str) -> bool {
    let numeral = |text: &str| number::read(text).is_some() || spelled::numeral(text).is_some();
    numeral(answer) || sentence::value(number::unwrap(answer)).is_some_and(|value| numeral(&value))
}

fn choose(reference: &str, answer: &str) -> Outcome {
    let Some(truth) = choice::read(reference) else {
        return Outcome::Unusable(format!(
            "the reference is no choice: {}",
            excerpt(reference)
        ));
    };
    match choice::read(answer) {
        Some(letters) if letters == truth => Outcome::Right,
        Some(_) => Outcome::Wrong(format!("wrong answer: {}", excerpt(answer))),
        None => Outcome::Wrong(format!("not one choice: {}", excerpt(answer))),
    }
}

/// White space counts as one space.
fn exact(reference: &str, answer: &str, lenient: bool) -> Outcome {
    let plain = |text: &str| -> String {
        let text = text.split_whitespace().collect::<Vec<&str>>().join(" ");
        if lenient {
            text.trim_end_matches('.').to_lowercase()
        } else {
            text
        }
    };
    if reference.trim().is_empty() {
        return Outcome::Unusable("the reference is empty".into());
    }
    if plain(reference) == plain(answer) {
        Outcome::Right
    } else {
        Outcome::Wrong(format!("wrong answer: {}", excerpt(answer)))
    }
}

#[cfg(feature = "component")]
reward_sdk::export!(Accuracy);

#[cfg(test)]
mod tests {
    #[test]
    fn golden_cases() {
        reward_sdk::golden::check::<super::Accuracy>(include_str!("../golden.jsonl"));
    }

    #[test]
    fn an_unknown_kind_is_named() {
        let error = reward_sdk::configure::<super::Accuracy>(r#"{"kind": "chess"}"#)
            .err()
            .unwrap();
        assert!(error.contains("chess"), "{error}");
    }
}
