//! `plugin keygen` and `plugin sign`.

use super::{PluginError, print};
use r1d_proto::plugin::Signed;
use r1d_proto::user_file;
use r1d_rewards::signature;
use std::path::Path;

pub(super) fn keygen(key: &Path) -> Result<bool, PluginError> {
    let public = signature::generate(key).map_err(|source| PluginError::File {
        path: key.into(),
        source,
    })?;
    print(&Signed {
        file: key.display().to_string(),
        public_key: public.to_string(),
    })?;
    Ok(true)
}

pub(super) fn sign(file: &Path, key: &Path) -> Result<bool, PluginError> {
    user_file::open(file).map_err(|source| PluginError::File {
        path: file.into(),
        source,
    })?;
    // Errors from here on come from the key file.
    let (path, public) = signature::sign(file, key).map_err(|source| PluginError::File {
        path: key.into(),
        source,
    })?;
    print(&Signed {
        file: path.display().to_string(),
        public_key: public.to_string(),
    })?;
    Ok(true)
}
