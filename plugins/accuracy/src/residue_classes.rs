//! Compares residue classes: `x \equiv 3 \pmod 7`.

use crate::compare::Compare;
use crate::comparison::Verdict;
use crate::expression::Expr;
use crate::linear::linear;
use crate::numeric::constant_rational;

impl Compare<'_> {
    /// Compares two classes, each given by a member and the modulus.
    pub(crate) fn classes(&self, r: (&Expr, &Expr), a: (&Expr, &Expr)) -> Verdict {
        self.judge.equal(r.1, a.1).and(|| {
            match self.is_multiple(&r.0.clone().minus(a.0.clone()), r.1) {
                Some(multiple) => Verdict::of(multiple),
                None => self.judge.equal(r.0, a.0),
            }
        })
    }

    /// Compares a class with a formula, which may be the member as it is written, or `7k + 3` for
    /// all k.
    pub(crate) fn class_and_formula(&self, class: (&Expr, &Expr), formula: &Expr) -> Verdict {
        if let [parameter] = formula.symbols().as_slice()
            && class.0.symbols().is_empty()
            && let Some((slope, constant)) = linear(self.judge, formula, parameter)
        {
            let step = self.judge.equal(&slope, class.1) == Verdict::Equal
                || self.judge.equal(&slope.negate(), class.1) == Verdict::Equal;
            return Verdict::of(
                step && self.is_multiple(&class.0.clone().minus(constant), class.1) == Some(true),
            );
        }
        self.judge.equal(class.0, formula)
    }

    /// Whether a value is a multiple of `of`; `None` unless both are rational constants.
    fn is_multiple(&self, value: &Expr, of: &Expr) -> Option<bool> {
        if !value.is_scalar() || !value.symbols().is_empty() {
            return None;
        }
        let (value, of) = (constant_rational(value)?, constant_rational(of)?);
        Some(value.divide(&of)?.denominator() == &1.into())
    }
}
