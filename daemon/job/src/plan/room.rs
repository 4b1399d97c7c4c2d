//! The memory of a node.

/// The memory of a node, as far as it is known.
#[derive(Clone, Copy, Debug, Default)]
pub struct Room {
    /// Bytes of the largest GPU; `None` without one.
    pub device: Option<u64>,
    /// Bytes of the host.
    pub host: Option<u64>,
}

pub(super) fn gib(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
}
