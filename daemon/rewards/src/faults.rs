//! How a call that failed becomes a verdict, or a sentence.

use crate::allowance::Allowance;
use crate::error::ScoreError;
use crate::limits;
use crate::memory::Memory;
use r1d_proto::remedy::{is_the_machines, said_by_the_system, to_mend};
use r1d_proto::verdict::Outcome;
use std::error::Error;
use wasmtime::Trap;

/// The verdict on a plugin that broke off, or broke its word.
pub(crate) fn trap(reason: String) -> Outcome {
    Outcome::Trap { reason }
}

/// Why the machine, and not the guest, ended a call, with what to do: an instance needs memory and
/// a descriptor. `None` if the guest is to blame.
pub(crate) fn of_machine(error: &wasmtime::Error) -> Option<String> {
    let error: &(dyn Error + 'static) = &**error;
    let cause = said_by_the_system(error).filter(|cause| is_the_machines(*cause))?;
    Some(format!("{cause}{}", to_mend(cause)))
}

/// Turns a call's failure into a verdict. An error that the guest did not cause is no verdict.
pub(crate) fn fault(error: &wasmtime::Error, memory: &Memory) -> Result<Outcome, ScoreError> {
    if let Some(why) = of_machine(error) {
        return Err(ScoreError::Host(why));
    }
    if error.is::<wasmtime::PoolConcurrencyLimitError>() {
        return Err(ScoreError::Host(error.to_string()));
    }
    Ok(match error.downcast_ref::<Trap>() {
        Some(Trap::OutOfFuel) => Outcome::OutOfFuel,
        Some(Trap::Interrupt) => Outcome::OutOfTime,
        _ => trap(fault_text(error, memory)),
    })
}

/// Describes what ended a call while the plugin was loaded, with the limit that it met.
pub(crate) fn load_fault(error: &wasmtime::Error, memory: &Memory, allowed: Allowance) -> String {
    match error.downcast_ref::<Trap>() {
        Some(Trap::OutOfFuel) => format!("out of fuel: the limit is {}", allowed.fuel),
        Some(Trap::Interrupt) => {
            format!("out of time: the limit is {} ms", allowed.wall.as_millis())
        }
        _ => fault_text(error, memory),
    }
}

/// Describes a fault in the same words in every run: without addresses and backtrace.
fn fault_text(error: &wasmtime::Error, memory: &Memory) -> String {
    if memory.refused {
        return format!("out of memory: the limit is {} MiB", memory.limit >> 20);
    }
    match error.downcast_ref::<Trap>() {
        Some(Trap::UnreachableCodeReached) => "the plugin panicked".into(),
        Some(Trap::StackOverflow) => "stack overflow".into(),
        Some(trap) => trap.to_string(),
        None => cut(error.root_cause().to_string()),
    }
}

/// Cuts a text to the length of a reason.
pub(crate) fn cut(mut text: String) -> String {
    if text.len() > limits::REASON_BYTES_MAX {
        let end = (0..=limits::REASON_BYTES_MAX)
            .rev()
            .find(|&end| text.is_char_boundary(end))
            .unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}
