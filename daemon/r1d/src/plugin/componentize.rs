//! Makes a component of a core module, and adds its golden cases.

use super::{PluginError, read};
use r1d_plugin_cli::ComponentizeArgs;
use r1d_store::{Disk, write_file};

/// Writes `component`. `module` may be a component already, to give it golden cases. A daemon that
/// loads `component` meanwhile sees the old file or the new one.
pub(super) fn run(args: &ComponentizeArgs) -> Result<bool, PluginError> {
    let ComponentizeArgs {
        module,
        component,
        golden,
    } = args;
    let bytes = r1d_rewards::read(module)?;
    let wrong = |source| PluginError::Module {
        path: module.into(),
        source,
    };
    let mut made = match (r1d_rewards::componentize(&bytes), golden) {
        (Err(r1d_rewards::ComponentizeError::AlreadyComponent), Some(_)) => bytes,
        (made, _) => made.map_err(wrong)?,
    };
    if let Some(path) = golden {
        let jsonl = read(path)?;
        made = r1d_rewards::golden::embed(&made, &jsonl).map_err(|source| PluginError::Module {
            path: path.into(),
            source,
        })?;
    }
    write_file(&Disk, component, |file| file.write_all(&made))?;
    Ok(true)
}
