//! From bytes to a reward component: what a file is, what it may import, and which world it
//! exports. Also from a core module to a component.

use crate::engine;
use crate::error::{ComponentizeError, RewardError};
use crate::world::World;
use r1d_proto::user_file;
use std::io::ErrorKind;
use std::path::Path;
use wasmtime::component::Component;
use wasmtime::component::types::ComponentItem;

/// Largest plugin file: CPython with sympy inside is 72 MB.
pub const FILE_BYTES_MAX: u64 = 128 << 20;

/// Reads a plugin's file, of at most [`FILE_BYTES_MAX`].
pub fn read(path: &Path) -> Result<Vec<u8>, RewardError> {
    user_file::read(path, FILE_BYTES_MAX).map_err(|cause| match cause.kind() {
        ErrorKind::FileTooLarge => RewardError::TooLarge {
            path: path.into(),
            limit: FILE_BYTES_MAX,
        },
        _ => RewardError::Read {
            path: path.into(),
            cause,
        },
    })
}

/// Makes a component of a core module that was built with `reward_sdk::export!` for
/// `wasm32-unknown-unknown`. The same module gives the same bytes.
pub fn componentize(core: &[u8]) -> Result<Vec<u8>, ComponentizeError> {
    match kind(core) {
        Kind::CoreModule => {}
        Kind::Component => return Err(ComponentizeError::AlreadyComponent),
        Kind::Other(why) => return Err(ComponentizeError::NotModule(why)),
    }
    // The steps below trust lengths that only a validator checks.
    let engine = engine::compiler().map_err(|e| ComponentizeError::Encode(e.to_string()))?;
    wasmtime::Module::validate(&engine, core)
        .map_err(|e| ComponentizeError::NotModule(format!("{e:#}")))?;
    let (world, _) = wit_component::metadata::decode(core)
        .map_err(|e| ComponentizeError::NotModule(format!("{e:#}")))?;
    if world.is_none() {
        return Err(ComponentizeError::NoWorld);
    }
    let encode = || {
        wit_component::ComponentEncoder::default()
            .module(core)?
            .validate(true)
            .encode()
    };
    encode().map_err(|e| ComponentizeError::Encode(format!("{e:#}")))
}

pub(crate) enum Kind {
    Component,
    CoreModule,
    /// Neither; the text is the reason.
    Other(String),
}

/// Tells what a file is by its first eight bytes: `\0asm`, then version and layer.
pub(crate) fn kind(bytes: &[u8]) -> Kind {
    match bytes {
        [0, b'a', b's', b'm', 1, 0, 0, 0, ..] => Kind::CoreModule,
        [0, b'a', b's', b'm', 0x0d, 0, 1, 0, ..] => Kind::Component,
        [0, b'a', b's', b'm', _, _, _, _, ..] => {
            Kind::Other("an unknown version of the WASM format".into())
        }
        [0x7f, b'E', b'L', b'F', ..] => {
            Kind::Other("an ELF file (native or precompiled code); give the .wasm file".into())
        }
        [] => Kind::Other("an empty file".into()),
        _ => Kind::Other("it does not start like a WASM file".into()),
    }
}

/// Checks that a component imports nothing and exports the functions of one of the worlds. Their
/// types are checked when it is linked.
pub(crate) fn check(component: &Component, path: &Path) -> Result<World, RewardError> {
    let engine = component.engine();
    let component_type = component.component_type();
    let imports: Vec<String> = component_type
        .imports(engine)
        .filter_map(|(name, item)| match &item.ty {
            // The names of shared types give no capability.
            ComponentItem::Type(_) => None,
            ComponentItem::ComponentInstance(instance) => {
                let first = instance
                    .exports(engine)
                    .find(|(_, item)| !matches!(item.ty, ComponentItem::Type(_)));
                first.map(|(function, _)| format!("`{name}` ({function}, …)"))
            }
            _ => Some(format!("`{name}`")),
        })
        .collect();
    if !imports.is_empty() {
        return Err(RewardError::Imports {
            path: path.into(),
            imports: imports.join(", "),
        });
    }
    let exports = |wanted: &str| {
        component_type
            .exports(engine)
            .any(|(name, _)| name == wanted)
    };
    World::of_exports(exports).map_err(|missing| RewardError::NotReward {
        path: path.into(),
        why: format!("it does not export {}", missing.join(", ")),
    })
}
