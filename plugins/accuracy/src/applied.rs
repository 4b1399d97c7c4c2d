//! What is written like a product and is none: a function's value, `f(2)`, and products whose order counts, `p \to q`, `PDP^{-1}`.
//!
//! A parser of letters alone reads `f(2)` as f times 2, which made f(1) = 2.5 the same as f(2) = 5. Where a text shows that a letter is a
//! function's name, each of its values gets a letter of its own, the same for arguments that are equal; so does each product in order.

use crate::equal::{Judge, Verdict};
use crate::expression::Expr;

/// Names that functions have. Others are factors: `h(a+b)` is a product.
const FUNCTIONS: [&str; 12] = ["f", "g", "h", "F", "G", "H", "P", "T", "f'", "g'", "phi", "varphi"];
/// Values of functions and products in order within two formulas.
const LETTERS_MAX: usize = 32;

/// Both with letters for what is no product.
pub fn resolved(judge: &Judge, a: Expr, b: Expr) -> (Expr, Expr) {
    let mut names = Vec::new();
    functions(&a, &mut names);
    functions(&b, &mut names);
    if names.is_empty() && !a.any(&is_ordered) && !b.any(&is_ordered) {
        return (a, b);
    }
    let mut letters = Letters { judge, names, known: Vec::new() };
    let a = letters.within(&a);
    (a, letters.within(&b))
}

/// Adds the letters that are functions' names: they are applied to a number, or both sides of a relation are their values.
fn functions(expr: &Expr, found: &mut Vec<String>) {
    let mut add = |name: &str| {
        if !found.iter().any(|known| known == name) {
            found.push(name.to_string());
        }
    };
    match expr {
        Expr::Product(factors) => factors.windows(2).for_each(|pair| {
            if let [Expr::Symbol(name), argument] = pair
                && FUNCTIONS.contains(&name.as_str())
                && is_number(argument)
            {
                add(name);
            }
        }),
        Expr::Relations(sides, _) => {
            let mut names = sides.iter().map(value_of);
            if let Some(Some(first)) = names.next()
                && names.all(|name| name == Some(first))
            {
                add(first);
            }
        }
        _ => {}
    }
    expr.children().into_iter().for_each(|child| functions(child, found));
}

fn is_number(expr: &Expr) -> bool {
    match expr {
        Expr::Number(_) => true,
        Expr::Product(factors) => factors.iter().all(is_number),
        Expr::Quotient(above, below) => is_number(above) && is_number(below),
        _ => false,
    }
}

/// The function whose value a side is, be it with a minus sign: `-f(x)`.
fn value_of(side: &Expr) -> Option<&str> {
    let Expr::Product(factors) = side else { return None };
    match factors.strip_prefix(&[Expr::integer(-1)]).unwrap_or(factors) {
        [Expr::Symbol(name), _] => FUNCTIONS.contains(&name.as_str()).then_some(name),
        [inner @ Expr::Product(_)] => value_of(inner),
        _ => None,
    }
}

/// Whether the order of a product's factors counts: an arrow or a composition among them, or the inverse or the transpose of a matrix.
fn is_ordered(expr: &Expr) -> bool {
    let Expr::Product(factors) = expr else { return false };
    let letter =
        |e: &Expr| matches!(e, Expr::Symbol(name) if name.len() == 1 && name.starts_with(|c: char| c.is_ascii_uppercase()));
    let small = |e: &Expr| matches!(e, Expr::Symbol(name) if name.chars().count() == 1);
    let turned = |e: &Expr| match e {
        Expr::Power(base, exponent) => letter(base) && (**exponent == Expr::integer(-1) || **exponent == Expr::Symbol("T".into())),
        _ => false,
    };
    let power = |e: &Expr| matches!(e, Expr::Power(base, _) if letter(base));
    let arrow = factors.iter().any(|factor| *factor == Expr::Symbol("to".into()))
        && !factors.iter().any(|factor| matches!(factor, Expr::Symbol(name) if name == "lim"));
    let composed = factors.windows(2).any(|pair| matches!(pair, [Expr::Degrees(outer), inner] if small(outer) && small(inner)));
    let matrices = factors.iter().any(turned) && factors.iter().all(|factor| letter(factor) || power(factor));
    arrow || composed || matrices
}

struct Letters<'j> {
    judge: &'j Judge,
    names: Vec<String>,
    /// What has a letter: the function's name and its argument, or the product.
    known: Vec<(Option<String>, Expr)>,
}

impl Letters<'_> {
    fn within(&mut self, expr: &Expr) -> Expr {
        if is_ordered(expr) {
            return self.letter(None, expr.clone());
        }
        let Expr::Product(factors) = expr else { return expr.map(&mut |child| self.within(child)) };
        let mut found = Vec::with_capacity(factors.len());
        let mut rest = factors.as_slice();
        while let Some((first, behind)) = rest.split_first() {
            rest = behind;
            match (first, behind.split_first()) {
                (Expr::Symbol(name), Some((argument, behind))) if self.names.contains(name) && argument.is_scalar() => {
                    let argument = self.within(argument);
                    found.push(self.letter(Some(name.clone()), argument));
                    rest = behind;
                }
                _ => found.push(self.within(first)),
            }
        }
        if found.len() == 1 { found.remove(0) } else { Expr::Product(found) }
    }

    fn letter(&mut self, function: Option<String>, of: Expr) -> Expr {
        let same = |(own, known): &(Option<String>, Expr)| {
            *own == function && (*known == of || (function.is_some() && self.judge.equal(known, &of) == Verdict::Equal))
        };
        let at = self.known.iter().position(same).unwrap_or(self.known.len());
        if at >= LETTERS_MAX {
            return of;
        }
        let letter = Expr::Symbol(format!("{} {at}", function.as_deref().unwrap_or("product")));
        if at == self.known.len() {
            self.known.push((function, of));
        }
        letter
    }
}
