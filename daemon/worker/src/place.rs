//! The device on which a command computes, and its dtype.

use clap::ValueEnum;
use r1d_torch::device::{self, DeviceError};
use tch::{Device, Kind};

#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Place {
    /// `cpu` or `cuda:N`.
    #[arg(long, default_value = "cpu")]
    pub device: String,
    /// What weights and activations are kept in.
    #[arg(long, value_enum, default_value_t = Dtype::Float32)]
    pub dtype: Dtype,
    /// Linear layers multiply in FP8; of bfloat16.
    #[arg(long)]
    pub fp8: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Dtype {
    Float32,
    Bfloat16,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum PlaceError {
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error("--fp8 rounds what bfloat16 layers multiply: add --dtype bfloat16")]
    Fp8OfFloat32,
}

impl Place {
    pub(crate) fn open(&self) -> Result<(Device, Kind), PlaceError> {
        if self.fp8 && self.dtype != Dtype::Bfloat16 {
            return Err(PlaceError::Fp8OfFloat32);
        }
        let kind = match self.dtype {
            Dtype::Float32 => Kind::Float,
            Dtype::Bfloat16 => Kind::BFloat16,
        };
        Ok((device::open(&self.device)?, kind))
    }
}
