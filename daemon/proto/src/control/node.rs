//! A node as clients see it, with its devices.

use crate::ids::JobId;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A node, with its daemon and devices.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// The node's name.
    pub name: String,
    /// The daemon's release.
    pub version: String,
    /// The directory in which the daemon keeps its state.
    pub state_dir: PathBuf,
    /// Seconds since the daemon started.
    pub uptime_s: u64,
    /// The node's devices.
    pub devices: Vec<DeviceStatus>,
    /// Names of the plugins in the daemon's plugin directories, sorted.
    pub plugins: Vec<String>,
}

/// A device and its worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeviceStatus {
    /// The device's name: `cuda:0`, `cpu`.
    pub device: String,
    /// `starting`, `idle`, `busy`, `pausing` (its job ends with the step in flight), `restarting`
    /// or `failed`.
    pub state: String,
    /// Process id of the worker, while there is one.
    pub worker_pid: Option<u32>,
    /// How often a job on this device was given a fresh worker after an attempt had ended early.
    pub worker_restarts: u32,
    /// The job that has the device.
    pub job: Option<JobId>,
    /// The number of its worker among the job's, if that is on several devices; absent otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank: Option<u32>,
    /// Why a device that is `starting` or `failed` gets no jobs, and what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}
