//! What words and letters mean: constants, Greek letters, functions, prose.

use crate::expression::{Expr, Function};

/// What a letter or word stands for.
pub(crate) fn symbol(name: &str) -> Option<Expr> {
    Some(match name {
        "e" => Expr::Euler,
        "i" => Expr::Imaginary,
        "pi" | "π" => Expr::Pi,
        "infinity" | "inf" | "oo" | "infty" => Expr::Infinity,
        "α" => Expr::Symbol("alpha".into()),
        "β" => Expr::Symbol("beta".into()),
        "γ" => Expr::Symbol("gamma".into()),
        "θ" => Expr::Symbol("theta".into()),
        "λ" => Expr::Symbol("lambda".into()),
        "φ" => Expr::Symbol("phi".into()),
        "ω" => Expr::Symbol("omega".into()),
        _ => Expr::Symbol(name.to_string()),
    })
}

/// A command that is a letter or another sign with no meaning of its own.
pub(crate) fn is_greek(name: &str) -> bool {
    const NAMES: [&str; 49] = [
        "alpha",
        "beta",
        "gamma",
        "delta",
        "epsilon",
        "varepsilon",
        "zeta",
        "eta",
        "theta",
        "vartheta",
        "iota",
        "kappa",
        "lambda",
        "mu",
        "nu",
        "xi",
        "rho",
        "sigma",
        "tau",
        "upsilon",
        "phi",
        "varphi",
        "chi",
        "psi",
        "omega",
        "Gamma",
        "Delta",
        "Theta",
        "Lambda",
        "Xi",
        "Pi",
        "Sigma",
        "Phi",
        "Psi",
        "Omega",
        "ell",
        "hbar",
        "angle",
        "triangle",
        "measuredangle",
        // Never worked out, so two are equal where they are written alike.
        "sum",
        "prod",
        "int",
        "iint",
        "oint",
        "lim",
        "partial",
        "nabla",
        "to",
    ];
    NAMES.contains(&name)
}

/// Whether a word of plain text is prose rather than a product of variables.
pub(crate) fn is_prose(word: &str) -> bool {
    const SHORT: [&str; 22] = [
        "yes", "no", "odd", "even", "true", "none", "red", "blue", "all", "any", "the", "not",
        "sum", "dne", "am", "pm", "is", "mon", "tue", "wed", "thu", "fri",
    ];
    let lower = word.to_lowercase();
    let letters = lower.chars().count();
    if is_function(&lower) || constant(&lower) {
        return false;
    }
    // Chinese words are no variables.
    if SHORT.contains(&lower.as_str()) || (letters > 1 && is_chinese(word)) {
        return true;
    }
    // `AB`, `ABCD` are segments, `abcd` is a product.
    let capitals = word.chars().all(char::is_uppercase) && letters <= 6;
    let alphabetical = lower
        .as_bytes()
        .windows(2)
        .all(|pair| pair.first() < pair.last());
    letters >= 4 && !capitals && !(alphabetical && letters <= 5)
}

pub(crate) fn is_chinese(word: &str) -> bool {
    word.starts_with(|c: char| matches!(c, '\u{4e00}'..='\u{9fff}'))
}

pub(crate) fn constant(word: &str) -> bool {
    matches!(
        word,
        "pi" | "infinity"
            | "inf"
            | "oo"
            | "infty"
            | "alpha"
            | "beta"
            | "gamma"
            | "delta"
            | "theta"
            | "lambda"
            | "phi"
            | "omega"
    )
}

pub(crate) fn is_function(word: &str) -> bool {
    function(word).is_some() || matches!(word, "sqrt" | "log" | "lg" | "exp" | "cbrt" | "binom")
}

pub(crate) fn function(word: &str) -> Option<Function> {
    Some(match word {
        "sin" => Function::Sin,
        "cos" => Function::Cos,
        "tan" | "tg" => Function::Tan,
        "cot" | "ctg" => Function::Cot,
        "sec" => Function::Sec,
        "csc" | "cosec" => Function::Csc,
        "arcsin" | "asin" => Function::Arcsin,
        "arccos" | "acos" => Function::Arccos,
        "arctan" | "atan" | "arctg" => Function::Arctan,
        "sinh" => Function::Sinh,
        "cosh" => Function::Cosh,
        "tanh" => Function::Tanh,
        "ln" => Function::Ln,
        "abs" => Function::Absolute,
        "floor" => Function::Floor,
        "ceil" => Function::Ceiling,
        "gcd" => Function::Gcd,
        "lcm" => Function::Lcm,
        "max" => Function::Max,
        "min" => Function::Min,
        "det" => Function::Determinant,
        "Re" => Function::RealPart,
        "Im" => Function::ImaginaryPart,
        _ => return None,
    })
}
