//! Finds the devices of this node without loading libtorch.

use r1d_job::daemon::{self, Devices, is_cpu};
use r1d_job::plan::Room;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The names of the devices (`cpu`, `cuda:0`, …): those that the configuration lists, or every
/// NVIDIA device, or the CPU if there is none. No two are the same.
pub fn found(devices: &Devices) -> Vec<String> {
    match devices {
        Devices::Listed(listed) => daemon::names(listed),
        Devices::Auto => {
            let nvidia = nvidia_devices(Path::new("/dev"));
            if nvidia == 0 {
                vec!["cpu".into()]
            } else {
                (0..nvidia).map(|i| format!("cuda:{i}")).collect()
            }
        }
    }
}

/// Counts the driver's device nodes `nvidia<N>`; `CUDA_VISIBLE_DEVICES` may hide some.
fn nvidia_devices(dev: &Path) -> usize {
    let is_device = |name: &str| {
        name.strip_prefix("nvidia")
            .is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    };
    let entries = std::fs::read_dir(dev).into_iter().flatten().flatten();
    let present = entries
        .filter(|entry| is_device(&entry.file_name().to_string_lossy()))
        .count();
    match std::env::var("CUDA_VISIBLE_DEVICES") {
        Ok(visible) => present.min(
            visible
                .split(',')
                .filter(|v| !v.trim().is_empty() && v.trim() != "-1")
                .count(),
        ),
        Err(_) => present,
    }
}

/// The memory of the node's largest GPU, once a probe has found it.
#[derive(Clone, Debug, Default)]
pub(crate) struct DeviceMemory(Arc<AtomicU64>);

impl DeviceMemory {
    /// Takes the memory of a device into account; `None` if it has none of its own.
    pub(crate) fn found(&self, bytes: Option<u64>) {
        self.0.fetch_max(bytes.unwrap_or(0), Ordering::Relaxed);
    }

    /// The memory that a job on this device has.
    pub(crate) fn room_on(&self, device: &str) -> Room {
        let room = self.room();
        Room {
            device: room.device.filter(|_| !is_cpu(device)),
            ..room
        }
    }

    /// The memory that a job's plan is held against.
    pub(crate) fn room(&self) -> Room {
        let device = self.0.load(Ordering::Relaxed);
        Room {
            device: (device > 0).then_some(device),
            host: host_memory(),
        }
    }
}

/// Bytes of the host's memory; `None` where the system does not tell.
fn host_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes << 10)
}

/// Threads that a worker of `device` may use for one tensor operation. `configured` = 0 means all
/// cores, which the CPU devices among `devices` share evenly.
pub(crate) fn worker_threads(device: &str, devices: &[String], configured: u32) -> u32 {
    let cores = || std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
    match configured {
        _ if !is_cpu(device) => 1,
        0 => shared(cores(), devices),
        n => n,
    }
}

/// The cores of one CPU device of these devices, at least one.
fn shared(cores: u32, devices: &[String]) -> u32 {
    let cpus = devices.iter().filter(|device| is_cpu(device)).count();
    (cores / (cpus.max(1) as u32)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_devices_have_names_of_their_own_and_share_the_cores() {
        let listed = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        let found = |list: &[&str]| found(&Devices::listed(listed(list)).unwrap());
        assert_eq!(found(&["cpu"]), ["cpu"]);
        let three = found(&["cpu", "cuda:1", "cpu"]);
        assert_eq!(three, ["cpu:0", "cuda:1", "cpu:1"]);
        assert_eq!([7, 8, 1].map(|cores| shared(cores, &three)), [3, 4, 1]);
        assert_eq!(shared(8, &listed(&["cpu"])), 8);
        assert_eq!(worker_threads("cuda:1", &three, 5), 1);
        assert_eq!(worker_threads("cpu:1", &three, 5), 5);
    }

    #[test]
    fn only_numbered_nodes_are_devices() {
        let dev = tempfile::tempdir().unwrap();
        for name in ["nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "null"] {
            std::fs::write(dev.path().join(name), "").unwrap();
        }
        if std::env::var_os("CUDA_VISIBLE_DEVICES").is_none() {
            assert_eq!(nvidia_devices(dev.path()), 2);
        }
    }
}
