//! Operations with gradients of our own: what libtorch's autograd calls for them is a Rust
//! function.

use crate::shim::{self, TorchError, check, pointers};
use std::ffi::{CString, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::null_mut;
use tch::Tensor;
use torch_sys::C_tensor;

/// Computes the gradients of an operation's inputs from those of its outputs. A gradient that is
/// not there is 0. libtorch calls it once, on a thread of its own, without recording operations.
pub type Gradient =
    dyn FnOnce(&[Option<Tensor>]) -> Result<Vec<Option<Tensor>>, String> + Send + 'static;

/// The state that libtorch holds of an operation: its function, until it was called.
struct State(Option<Box<Gradient>>);

/// Makes `outputs`, which were computed from `inputs` without being recorded, differentiable:
/// returns them with `gradient` as their way back. What `gradient` keeps of the outputs must be
/// views that were taken before. Where no input needs a gradient the outputs are returned as they
/// are.
pub fn differentiable(
    inputs: &[&Tensor],
    mut outputs: Vec<Tensor>,
    gradient: Box<Gradient>,
) -> Result<Vec<Tensor>, TorchError> {
    let state = Box::into_raw(Box::new(State(Some(gradient))));
    let given = pointers(inputs.iter().copied());
    let made: Vec<*mut C_tensor> = outputs.iter_mut().map(Tensor::as_mut_ptr).collect();
    // SAFETY: live tensors; the shim drops the state once, also where it fails.
    check("differentiable operation", unsafe {
        shim::r1d_differentiable(
            given.as_ptr(),
            given.len(),
            made.as_ptr(),
            made.len(),
            call,
            drop_state,
            state.cast(),
        )
    })?;
    Ok(outputs)
}

/// Calls the function of a state. Its gradients become the caller's.
unsafe extern "C" fn call(
    state: *mut c_void,
    of_outputs: *const *mut C_tensor,
    outputs: usize,
    of_inputs: *mut *mut C_tensor,
    inputs: usize,
) -> *mut c_char {
    // SAFETY: the state lives until it is dropped, and nobody else uses it; both lists have the
    // given lengths, and the tensors live through the call.
    let (state, given, found) = unsafe {
        (
            &mut *state.cast::<State>(),
            std::slice::from_raw_parts(of_outputs, outputs),
            std::slice::from_raw_parts_mut(of_inputs, inputs),
        )
    };
    let gradients = catch_unwind(AssertUnwindSafe(|| {
        let function = state.0.take().ok_or("a gradient is computed once")?;
        let given: Vec<Option<Tensor>> = given
            .iter()
            // SAFETY: a live tensor, of which this is another reference.
            .map(|&one| (!one.is_null()).then(|| unsafe { Tensor::clone_from_ptr(one) }))
            .collect();
        function(&given)
    }));
    let message = match gradients {
        Ok(Ok(gradients)) if gradients.len() == found.len() => {
            for (place, gradient) in found.iter_mut().zip(gradients) {
                *place = gradient.map_or(null_mut(), |mut gradient| {
                    let pointer = gradient.as_mut_ptr();
                    std::mem::forget(gradient);
                    pointer
                });
            }
            return null_mut();
        }
        Ok(Ok(gradients)) => format!("{} gradients of {} inputs", gradients.len(), found.len()),
        Ok(Err(message)) => message,
        Err(_) => "a gradient's function panicked".to_owned(),
    };
    // SAFETY: the text ends with a zero and lives through the call, which copies it.
    unsafe { shim::strdup(CString::new(message).unwrap_or_default().as_ptr()) }
}

unsafe extern "C" fn drop_state(state: *mut c_void) {
    // SAFETY: made by `differentiable`, dropped once.
    drop(unsafe { Box::from_raw(state.cast::<State>()) });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::backward;
    use tch::Kind;

    /// (x y, x + y).
    fn product_and_sum(x: &Tensor, y: &Tensor) -> Vec<Tensor> {
        let outputs = tch::no_grad(|| vec![x * y, x + y]);
        let kept = [x.detach(), y.detach()];
        let gradient = move |given: &[Option<Tensor>]| {
            let [x, y] = &kept;
            let part = |own: &Tensor| {
                let through = given[0].as_ref().map(|g| g * own);
                match (through, &given[1]) {
                    (Some(a), Some(b)) => Some(a + b),
                    (Some(a), None) => Some(a),
                    (None, b) => b.as_ref().map(Tensor::shallow_clone),
                }
            };
            Ok(vec![part(y), part(x)])
        };
        differentiable(&[x, y], outputs, Box::new(gradient)).unwrap()
    }

    fn leaves() -> [Tensor; 2] {
        [[1f32, 2.0], [5.0, 7.0]].map(|of| Tensor::from_slice(&of).set_requires_grad(true))
    }

    fn values(tensor: &Tensor) -> Vec<f32> {
        Vec::try_from(tensor).unwrap()
    }

    #[test]
    fn gradients_are_those_of_the_function() {
        let [x, y] = leaves();
        let outputs = product_and_sum(&x, &y);
        assert_eq!(values(&outputs[0].detach()), [5.0, 14.0]);
        let loss = (&outputs[0] * 2.0 + &outputs[1] * 3.0).sum(Kind::Float);
        backward(&loss).unwrap();
        assert_eq!(values(&x.grad()), [13.0, 17.0]);
        assert_eq!(values(&y.grad()), [5.0, 7.0]);
    }

    #[test]
    fn an_output_that_nobody_used_has_no_gradient() {
        let [x, y] = leaves();
        let outputs = product_and_sum(&x, &y);
        backward(&outputs[1].sum(Kind::Float)).unwrap();
        assert_eq!(values(&x.grad()), [1.0, 1.0]);
    }

    #[test]
    fn without_gradients_the_function_is_dropped_at_once() {
        struct Flag(std::sync::Arc<std::sync::atomic::AtomicBool>);
        impl Drop for Flag {
            fn drop(&mut self) {
                self.0.store(true, std::sync::atomic::Ordering::SeqCst);
            }
        }
        let [x, _] = leaves();
        let dropped = |record: bool| {
            let flag = std::sync::Arc::default();
            let held = Flag(std::sync::Arc::clone(&flag));
            let gradient = move |_: &[Option<Tensor>]| {
                let _held = &held;
                Ok(vec![None])
            };
            let make = || {
                let output = tch::no_grad(|| &x * 2.0);
                differentiable(&[&x], vec![output], Box::new(gradient)).unwrap()
            };
            let outputs = if record { make() } else { tch::no_grad(make) };
            let at_once = flag.load(std::sync::atomic::Ordering::SeqCst);
            assert_eq!(outputs[0].requires_grad(), record);
            drop(outputs);
            assert!(flag.load(std::sync::atomic::Ordering::SeqCst));
            at_once
        };
        assert!(dropped(false));
        assert!(!dropped(true));
    }

    #[test]
    fn errors_and_panics_end_the_backward_pass() {
        let [x, _] = leaves();
        let failing = |gradient: Box<Gradient>| {
            let output = tch::no_grad(|| &x * 2.0);
            let outputs = differentiable(&[&x], vec![output], gradient).unwrap();
            backward(&outputs[0].sum(Kind::Float))
                .unwrap_err()
                .to_string()
        };
        let refused = failing(Box::new(|_| Err("planted".to_owned())));
        assert!(refused.contains("planted"), "{refused}");
        let panicked = failing(Box::new(|_| panic!("planted")));
        assert!(panicked.contains("panicked"), "{panicked}");
        let wrong = failing(Box::new(|_| Ok(vec![])));
        assert!(wrong.contains("0 gradients of 1 inputs"), "{wrong}");
    }
}
