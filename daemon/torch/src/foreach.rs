//! One call for a whole list of tensors. None of the calls records gradients.
//!
//! On the CPU libtorch goes through such a list tensor by tensor, which takes seconds in a large
//! model. There the list is passed in [`groups`], and progress is reported after each
//! ([`crate::work`]); the numbers are the same.

use crate::shim::{self, TorchError, check, pointers};
use crate::work;
use std::ops::Range;
use tch::{Device, Tensor};

/// Number of tensors that are passed at a time: one on the CPU, all of them on a GPU, which is
/// faster the more it gets.
fn group_size(tensors: &[Tensor]) -> usize {
    let on_cpu = tensors
        .first()
        .is_none_or(|tensor| tensor.device() == Device::Cpu);
    if on_cpu { 1 } else { tensors.len() }
}

/// Splits a list of tensors of one device.
pub(crate) fn groups(tensors: &[Tensor]) -> impl Iterator<Item = Range<usize>> {
    let (size, count) = (group_size(tensors), tensors.len());
    (0..count)
        .step_by(size.max(1))
        .map(move |start| start..(start + size).min(count))
}

/// √ Σ x² over all elements of all tensors, a float64 scalar on their device, which is not waited
/// for. It is accumulated in float64 on a GPU, tensor by tensor in their order; on the CPU in
/// float32, where float64 would take several times as long.
pub fn global_norm(tensors: &[Tensor]) -> Result<Tensor, TorchError> {
    let list = pointers(tensors);
    let mut norm = std::ptr::null_mut();
    // SAFETY: `list` holds live tensors; the norm becomes ours.
    check("global norm", unsafe {
        shim::r1d_global_norm(
            list.as_ptr(),
            list.len(),
            group_size(tensors).max(1),
            work::still_moving,
            &mut norm,
        )
    })?;
    // SAFETY: the shim has made it.
    Ok(unsafe { Tensor::from_ptr(norm) })
}

/// Multiplies each tensor in place: `tensor *= factor`.
pub fn scale(tensors: &[Tensor], factor: f64) -> Result<(), TorchError> {
    let list = pointers(tensors);
    // SAFETY: as above.
    check("scale", unsafe {
        shim::r1d_scale(list.as_ptr(), list.len(), factor)
    })
}

/// Copies each pair: `destination ← source`, converting dtypes. The lists must be of equal length.
pub fn copy(destinations: &[Tensor], sources: &[Tensor]) -> Result<(), TorchError> {
    if destinations.len() != sources.len() {
        let message = format!(
            "{} destinations for {} sources",
            destinations.len(),
            sources.len()
        );
        return Err(TorchError {
            call: "copy",
            message,
        });
    }
    for group in groups(destinations) {
        let (to, from) = (
            pointers(&destinations[group.clone()]),
            pointers(&sources[group]),
        );
        // SAFETY: as above, and the lengths agree.
        check("copy", unsafe {
            shim::r1d_copy(to.as_ptr(), from.as_ptr(), to.len())
        })?;
        work::moved(0);
    }
    Ok(())
}

/// Drops the gradients of `parameters` (torch's `zero_grad(set_to_none=True)`).
pub fn clear_gradients(parameters: &[Tensor]) -> Result<(), TorchError> {
    let list = pointers(parameters);
    // SAFETY: as above.
    check("clear gradients", unsafe {
        shim::r1d_clear_gradients(list.as_ptr(), list.len())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adamw::Conditions;
    use tch::{Kind, Tensor};

    #[test]
    fn norm_is_over_all_elements_of_all_tensors_in_float32() {
        let tensors = [
            Tensor::from_slice(&[3f32, 0.]),
            Tensor::from_slice(&[4f32]),
            Tensor::from_slice(&[12f32]).view([1, 1]),
        ];
        let norm = |tensors: &[Tensor]| global_norm(tensors).unwrap().double_value(&[]);
        assert!((norm(&tensors) - 13.0).abs() < 1e-6);
        assert_eq!(norm(&[]), 0.0);
        let bf16 = [Tensor::ones([65_536], (Kind::BFloat16, tch::Device::Cpu))];
        assert_eq!(norm(&bf16), 256.0);
        assert!(norm(&[Tensor::from_slice(&[f32::NAN])]).is_nan());
    }

    #[test]
    fn scale_and_copy_work_in_place() {
        let a = Tensor::from_slice(&[1f32, 2.]);
        scale(&[a.shallow_clone()], 0.5).unwrap();
        assert_eq!(Vec::<f32>::try_from(&a).unwrap(), [0.5, 1.0]);
        let b = Tensor::zeros([2], (Kind::BFloat16, tch::Device::Cpu));
        copy(&[b.shallow_clone()], &[a]).unwrap();
        assert_eq!(
            Vec::<f32>::try_from(b.to_kind(Kind::Float)).unwrap(),
            [0.5, 1.0]
        );
        assert!(
            copy(&[b], &[])
                .unwrap_err()
                .to_string()
                .contains("1 destinations for 0 sources")
        );
    }

    #[test]
    fn a_cpp_exception_becomes_an_error() {
        let error = copy(
            &[Tensor::zeros([2], tch::kind::FLOAT_CPU)],
            &[Tensor::zeros([3], tch::kind::FLOAT_CPU)],
        )
        .unwrap_err();
        assert!(error.to_string().starts_with("copy: "), "{error}");
        assert!(!error.to_string().contains("frame #"), "{error}");
    }

    #[test]
    fn a_list_on_the_cpu_is_heard_of_tensor_by_tensor() {
        let heard = std::rc::Rc::new(std::cell::Cell::new(0));
        let words = |work: &dyn Fn()| {
            heard.set(0);
            let counted = heard.clone();
            work::heard_by(move |_| counted.set(counted.get() + 1), work);
            heard.get()
        };
        let list: Vec<Tensor> = (0..5)
            .map(|_| Tensor::ones([3], tch::kind::FLOAT_CPU))
            .collect();
        assert_eq!(words(&|| drop(global_norm(&list).unwrap())), 5);
        assert_eq!(words(&|| copy(&list, &list).unwrap()), 5);
        let steps: Vec<Tensor> = (0..5).map(|_| Tensor::from(1f32)).collect();
        let settings = crate::adamw::AdamW {
            learning_rate: 0.1,
            beta1: 0.9,
            beta2: 0.99,
            epsilon: 1e-8,
            weight_decay: 0.0,
        };
        let slices = crate::adamw::Slices {
            parameters: &list,
            gradients: &list,
            exp_avg: &list,
            exp_avg_sq: &list,
            steps: &steps,
        };
        assert_eq!(
            words(&|| settings.step(&slices, Conditions::default()).unwrap()),
            5
        );
    }

    #[test]
    fn cleared_gradients_are_gone() {
        let x = Tensor::from_slice(&[2f32]).set_requires_grad(true);
        (&x * &x).sum(Kind::Float).backward();
        assert!(x.grad().defined());
        clear_gradients(&[x.shallow_clone()]).unwrap();
        assert!(!x.grad().defined());
    }
}
