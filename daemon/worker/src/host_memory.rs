//! The memory that the host has to spare.

use std::fs;
use std::path::Path;

/// Bytes that may still be allocated without another process, or the limit of this one's control
/// group, being in the way; 0 where the system does not tell.
pub(crate) fn available() -> u64 {
    let system = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let system = kibibytes(&system, "MemAvailable:").unwrap_or(0);
    group_available().map_or(system, |group| group.min(system))
}

/// What the control group (version 2) leaves; `None` without a limit.
fn group_available() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let dir = Path::new("/sys/fs/cgroup").join(own);
    let limit = fs::read_to_string(dir.join("memory.max")).ok()?;
    let limit: u64 = limit.trim().parse().ok()?;
    let used = fs::read_to_string(dir.join("memory.stat")).ok()?;
    // Cached files give way; what processes have allocated does not.
    Some(limit.saturating_sub(field(&used, "anon")?))
}

fn field(text: &str, name: &str) -> Option<u64> {
    let mut rows = text.lines().map(str::split_whitespace);
    rows.find_map(|mut words| (words.next()? == name).then(|| words.next()?.parse().ok())?)
}

fn kibibytes(text: &str, name: &str) -> Option<u64> {
    field(text, name).map(|number| number << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_systems_tables_are_read_by_the_whole_name() {
        let text = "MemTotal:  8 kB\nMemAvailableX: 5 kB\nMemAvailable:    3 kB\nanon 7\n";
        assert_eq!(kibibytes(text, "MemAvailable:"), Some(3072));
        assert_eq!((field(text, "anon"), field(text, "file")), (Some(7), None));
        assert!(available() > 0);
    }
}
