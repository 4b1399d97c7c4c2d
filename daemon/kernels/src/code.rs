//! Compiled kernels, found by their names.

use crate::driver::{Function, Module};
use crate::error::{KernelError, Result};
use crate::gpu::Gpu;

/// What every text needs before it.
const BEFORE: &str = concat!(
    include_str!("../cuda/ptx.cuh"),
    include_str!("../cuda/common.cuh")
);

/// A text of `cuda/`, by the name of its file.
pub(crate) type Source = (&'static str, &'static str);

/// The code of some texts. It lives as long as the functions are used.
pub(crate) struct Code(Vec<Module>);

impl Code {
    /// Compiles texts for the GPU at hand under these definitions (`NAME=VALUE`).
    pub(crate) fn compile(gpu: &Gpu, sources: &[Source], definitions: &[String]) -> Result<Code> {
        Code::by(sources, |file, text| gpu.compile(file, text, definitions))
    }

    /// Compiles texts by `compile`, which gets a file's name and all that a compiler needs of it.
    pub(crate) fn by(
        sources: &[Source],
        compile: impl Fn(&'static str, &str) -> Result<Module>,
    ) -> Result<Code> {
        let whole = |&(file, text): &Source| compile(file, &format!("{BEFORE}\n{text}"));
        Ok(Code(sources.iter().map(whole).collect::<Result<_>>()?))
    }

    pub(crate) fn find(&self, name: &str) -> Result<Function> {
        let found = self.0.iter().find_map(|module| module.function(name).ok());
        found.ok_or_else(|| KernelError::Call {
            call: "cuModuleGetFunction",
            message: format!("no kernel `{name}`"),
        })
    }
}

// SAFETY: as of [`Gpu`].
unsafe impl Send for Code {}
