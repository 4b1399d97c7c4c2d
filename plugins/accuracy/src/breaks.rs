//! Where formulas bend and jump.

use crate::expression::{Expr, Function};

/// Whether a formula is made of pieces that meet.
pub(crate) fn bends(expr: &Expr) -> bool {
    expr.any(&|e| match e {
        Expr::Call(Function::Absolute | Function::Max | Function::Min, arguments) => {
            open(arguments)
        }
        // `\arcsin(\sin x)` is x only near zero.
        Expr::Call(Function::Arcsin | Function::Arccos | Function::Arctan, arguments) => {
            let turns = |e: &Expr| {
                matches!(e,
                Expr::Call(Function::Sin | Function::Cos | Function::Tan | Function::Cot,
                inner) if open(inner))
            };
            arguments.iter().any(|argument| argument.any(&turns))
        }
        Expr::Root(inner, degree) => {
            degree % 2 == 0
                && inner.any(&|e| matches!(e, Expr::Power(..) | Expr::Product(_) | Expr::Sum(_)))
                && open(std::slice::from_ref(&**inner))
        }
        _ => false,
    })
}

fn open(arguments: &[Expr]) -> bool {
    arguments
        .iter()
        .any(|argument| !argument.symbols().is_empty())
}

/// Whether a formula jumps at some values of its variables.
pub(crate) fn jumps(expr: &Expr) -> bool {
    expr.any(&|e| rounded(e).is_some_and(|inside| !inside.symbols().is_empty()))
}

/// Returns what a floor or ceiling rounds; `None` for any other formula.
pub(crate) fn rounded(expr: &Expr) -> Option<&Expr> {
    match expr {
        Expr::Call(Function::Floor | Function::Ceiling, arguments) => arguments.first(),
        _ => None,
    }
}
