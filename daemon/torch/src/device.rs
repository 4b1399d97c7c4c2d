//! Finds devices by name, and opens libtorch's CUDA half at run time so that one binary serves
//! machines with and without a GPU.

use crate::runtime;
use crate::shim::TorchError;
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use std::sync::OnceLock;
use tch::Device;

/// A device that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// The name is not `cpu`, `cuda` or `cuda:N`.
    #[error("unknown device `{0}`: write `cpu` or `cuda:N`, for example `cuda:0`")]
    Unknown(String),
    /// libtorch's CUDA library cannot be loaded; the text is the loader's message.
    #[error(
        "cannot open CUDA: {0}: install the CUDA build of libtorch 2.11.0 with its nvidia-* \
         libraries beside it, or use device `cpu`"
    )]
    Library(String),
    /// The CUDA library is loaded, but finds no GPU: the driver is missing or does not fit.
    #[error(
        "libtorch_cuda.so is open, but libtorch finds no usable GPU: check the driver with \
         nvidia-smi, or use device `cpu`"
    )]
    NoGpu,
    /// The machine has fewer GPUs than the name asks for.
    #[error(
        "device `cuda:{index}` does not exist: this machine has {count} GPU(s), numbered from 0"
    )]
    NoSuchGpu {
        /// The GPU's number in the name, from 0.
        index: usize,
        /// GPUs of the machine.
        count: i64,
    },
    /// libtorch refused a setting of the device.
    #[error(transparent)]
    Torch(#[from] TorchError),
}

/// Parses `cpu`, `cpu:N` (one of several devices that share the CPU), `cuda` (= `cuda:0`) or
/// `cuda:N`. Only the name is checked; [`open`] checks that
/// the device exists.
pub fn parse(name: &str) -> Result<Device, DeviceError> {
    let unknown = || DeviceError::Unknown(name.to_owned());
    let is_number = |index: &str| index.bytes().all(|b| b.is_ascii_digit());
    match name.split_once(':') {
        None if name == "cpu" => Ok(Device::Cpu),
        None if name == "cuda" => Ok(Device::Cuda(0)),
        Some(("cpu", index)) if is_number(index) => {
            let number = index.parse::<usize>();
            number.map(|_| Device::Cpu).map_err(|_| unknown())
        }
        Some(("cuda", index)) if is_number(index) => {
            index.parse().map(Device::Cuda).map_err(|_| unknown())
        }
        _ => Err(unknown()),
    }
}

/// Loads `libtorch_cuda.so` into the process, which registers its kernels. Must come before the
/// first CUDA tensor; costs seconds the first time and nothing afterwards.
pub fn open_cuda() -> Result<(), DeviceError> {
    static OPENED: OnceLock<Result<(), DeviceError>> = OnceLock::new();
    OPENED
        .get_or_init(|| {
            // SAFETY: libtorch's own libraries; their constructors only register kernels.
            let library =
                unsafe { Library::open(Some("libtorch_cuda.so"), RTLD_NOW | RTLD_GLOBAL) };
            // Kernels stay registered for the life of the process, so the library must too.
            std::mem::forget(library.map_err(|e| DeviceError::Library(e.to_string()))?);
            if tch::Cuda::is_available() {
                Ok(())
            } else {
                Err(DeviceError::NoGpu)
            }
        })
        .clone()
}

/// Parses the name like [`parse`], checks that the device can be used, and makes its products sum
/// in float32.
pub fn open(name: &str) -> Result<Device, DeviceError> {
    let device = parse(name)?;
    runtime::sum_in_float32()?;
    if let Device::Cuda(index) = device {
        open_cuda()?;
        let count = tch::Cuda::device_count();
        if index as i64 >= count {
            return Err(DeviceError::NoSuchGpu { index, count });
        }
    }
    Ok(device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_devices() {
        assert_eq!(parse("cpu"), Ok(Device::Cpu));
        assert_eq!(parse("cpu:1"), Ok(Device::Cpu));
        assert_eq!(parse("cuda"), Ok(Device::Cuda(0)));
        assert_eq!(parse("cuda:3"), Ok(Device::Cuda(3)));
        for bad in [
            "",
            "gpu",
            "cpu:",
            "cpu:x",
            "cuda:",
            "cuda:x",
            "cuda:-1",
            "cuda:+1",
            "CUDA:0",
            "cuda:99999999999999999999",
        ] {
            assert_eq!(parse(bad), Err(DeviceError::Unknown(bad.to_owned())));
        }
    }

    #[test]
    fn a_missing_gpu_is_an_error_that_says_what_to_do() {
        match open("cuda:0") {
            Ok(device) => assert_eq!(device, Device::Cuda(0)),
            Err(error) => assert!(error.to_string().contains("use device `cpu`"), "{error}"),
        }
    }

    #[test]
    fn an_open_device_sums_products_in_float32() {
        open("cpu").unwrap();
        assert!(runtime::sums_in_float32());
    }

    #[test]
    fn libtorch_runs_in_place() {
        let x = tch::Tensor::from_slice(&[1f32, 2., 3.]);
        assert_eq!(f64::try_from(x.dot(&x)).ok(), Some(14.0));
    }
}
