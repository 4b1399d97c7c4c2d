//! `r1ctl nodes`.

use crate::format::duration;
use crate::table::{left, right, table};
use crate::terminal::Look;
use crate::terminal::one_line;
use r1d_proto::control::node::{DeviceStatus, NodeStatus};

pub(crate) fn nodes(nodes: &[NodeStatus], look: Look) -> String {
    let mut text = String::new();
    for node in nodes {
        let plugins = if node.plugins.is_empty() {
            "none".into()
        } else {
            node.plugins.join(", ")
        };
        text += &format!(
            "{}  r1d {}, up {}\n",
            look.bold(&node.name),
            node.version,
            duration(node.uptime_s as f64)
        );
        text += &format!(
            "state    {}\nplugins  {plugins}\n",
            node.state_dir.display()
        );
        let mut columns = vec![
            left("DEVICE"),
            left("STATE"),
            left("JOB"),
            right("WORKER PID"),
            right("WORKER RESTARTS"),
        ];
        let has_ranks = node.devices.iter().any(|device| device.rank.is_some());
        if has_ranks {
            columns.insert(3, right("RANK"));
        }
        let row = |device| row(device, has_ranks, look);
        text += &table(look, &columns, node.devices.iter().map(row).collect());
        for device in &node.devices {
            if let Some(problem) = &device.problem {
                text += &format!("{} gets no jobs: {}\n", device.device, one_line(problem));
            }
        }
    }
    text
}

fn row(device: &DeviceStatus, has_ranks: bool, look: Look) -> Vec<String> {
    let state = match device.state.as_str() {
        "idle" => look.dim(&device.state),
        "busy" => look.cyan(&device.state),
        "failed" => look.red(&device.state),
        _ => look.yellow(&device.state),
    };
    let mut row = vec![
        device.device.clone(),
        state,
        device
            .job
            .as_ref()
            .map_or_else(|| "-".into(), ToString::to_string),
        device
            .worker_pid
            .map_or_else(|| "-".into(), |pid| pid.to_string()),
        device.worker_restarts.to_string(),
    ];
    if has_ranks {
        let rank = device.rank.map(|rank| rank.to_string());
        row.insert(3, rank.unwrap_or_else(|| "-".into()));
    }
    row
}
