//! What is known of the devices' health, across restarts of the daemon: `devices.json` in the state
//! directory, a record per device by name. It is written after the queue has decided by it: what a
//! crash keeps from it costs a job no more than the attempts that show it anew.

use crate::tasks;
use r1d_proto::ids::JobId;
use r1d_runner::schedule::DeviceHealth;
use r1d_store::{Disk, StateLayout, remove_parts, write_file};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Pause before another try to write the file.
const WRITE_AGAIN: Duration = Duration::from_secs(5);

/// The health of each device, by its name; devices that never failed a job are left out.
type ByName = BTreeMap<String, DeviceHealth>;

/// The health of all devices. Clones share it.
#[derive(Clone)]
pub(crate) struct DevicesHealth(Arc<watch::Sender<ByName>>);

impl DevicesHealth {
    /// Reads the file, and writes it anew whenever something changes. A file that cannot be read is
    /// as none.
    pub(crate) fn open(state_dir: &Path) -> DevicesHealth {
        // What a crash has left of one that was being written.
        remove_parts(&Disk, state_dir);
        let path = StateLayout::new(state_dir).devices();
        let known = read(&path).unwrap_or_else(|error| {
            tracing::warn!("{}: {error}; devices that rested get jobs", path.display());
            ByName::new()
        });
        let newest = Arc::new(watch::Sender::new(known));
        tasks::spawn("health of devices", keep(path, newest.subscribe()));
        DevicesHealth(newest)
    }

    /// The health of a device.
    pub(crate) fn of(&self, device: &str) -> DeviceHealth {
        self.0.borrow().get(device).cloned().unwrap_or_default()
    }

    /// Whether the job has given the device up.
    pub(crate) fn is_given_up(&self, device: &str, job: &JobId) -> bool {
        let health = self.0.borrow();
        health
            .get(device)
            .is_some_and(|health| health.is_given_up_by(job))
    }

    /// Replaces the health of these devices. Others, which this daemon does not have, keep theirs.
    pub(crate) fn note<'a>(&self, devices: impl Iterator<Item = (String, &'a DeviceHealth)>) {
        self.0.send_if_modified(|known| {
            let mut is_new = false;
            for (device, health) in devices {
                if known.get(&device).unwrap_or(&DeviceHealth::default()) != health {
                    known.insert(device, health.clone());
                    is_new = true;
                }
            }
            is_new
        });
    }
}

/// Writes the newest health as long as somebody may change it.
async fn keep(path: PathBuf, mut newest: watch::Receiver<ByName>) {
    while newest.changed().await.is_ok() {
        let (to, known) = (path.clone(), newest.borrow_and_update().clone());
        let written = tasks::blocking(move || {
            write_file(&Disk, &to, |file| {
                Ok(serde_json::to_writer_pretty(file, &known)?)
            })
        });
        let problem = match written.await {
            Ok(Ok(())) => continue,
            Ok(Err(error)) => error.to_string(),
            Err(panic) => panic.to_string(),
        };
        tracing::warn!("what is known of the devices does not outlive the daemon: {problem}");
        tokio::time::sleep(WRITE_AGAIN).await;
        newest.mark_changed();
    }
}

fn read(path: &Path) -> io::Result<ByName> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(ByName::new()),
        Err(error) => Err(error),
    }
}
