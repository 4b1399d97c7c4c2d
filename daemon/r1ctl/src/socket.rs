//! Finds the socket on which the daemon listens.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// The socket of a daemon that systemd started.
const SYSTEM_SOCKET: &str = "/run/r1d/r1d.sock";

/// A socket to try, and where its path comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub path: PathBuf,
    pub origin: &'static str,
}

/// A socket on which no daemon answered.
#[derive(Debug)]
pub(crate) struct Tried {
    pub path: PathBuf,
    pub origin: &'static str,
    pub reason: String,
}

/// The sockets to try, in order. A socket that the user named is the only one.
pub(crate) fn candidates(
    named: Option<&Path>,
    variable: impl Fn(&str) -> Option<String>,
) -> Vec<Candidate> {
    // An empty variable counts as unset.
    if let Some(path) = named.filter(|path| !path.as_os_str().is_empty()) {
        return vec![Candidate {
            path: path.into(),
            origin: "--socket or R1D_SOCKET",
        }];
    }
    let local = [
        ("R1D_STATE_DIR", ""),
        ("XDG_STATE_HOME", "r1d"),
        ("HOME", ".local/state/r1d"),
    ]
    .into_iter()
    .find_map(|(name, below)| {
        let value = variable(name).filter(|value| !value.is_empty())?;
        Some(Candidate {
            path: Path::new(&value).join(below).join("r1d.sock"),
            origin: "local state directory",
        })
    });
    local
        .into_iter()
        .chain([Candidate {
            path: SYSTEM_SOCKET.into(),
            origin: "system daemon",
        }])
        .collect()
}

/// Explains an error of `connect` to a user.
pub(crate) fn reason(path: &Path, error: &std::io::Error) -> String {
    let is_socket =
        |found: std::fs::Metadata| std::os::unix::fs::FileTypeExt::is_socket(&found.file_type());
    match error.kind() {
        ErrorKind::ConnectionRefused if !std::fs::metadata(path).is_ok_and(is_socket) => {
            "not a socket".into()
        }
        ErrorKind::NotFound => "no such file".into(),
        ErrorKind::ConnectionRefused => "nobody listens: its daemon has stopped".into(),
        ErrorKind::PermissionDenied => "permission denied: ask to be in the socket's group".into(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(named: Option<&str>, variables: &[(&str, &str)]) -> Vec<String> {
        let variable = |name: &str| {
            variables
                .iter()
                .find(|(n, _)| *n == name)
                .map(|(_, v)| v.to_string())
        };
        candidates(named.map(Path::new), variable)
            .into_iter()
            .map(|c| c.path.display().to_string())
            .collect()
    }

    #[test]
    fn a_named_socket_is_the_only_candidate() {
        assert_eq!(
            paths(Some("/x.sock"), &[("R1D_STATE_DIR", "/state")]),
            ["/x.sock"]
        );
    }

    #[test]
    fn the_local_state_comes_before_the_system_daemon() {
        let all = [
            ("R1D_STATE_DIR", "/state"),
            ("XDG_STATE_HOME", "/xdg"),
            ("HOME", "/home/ada"),
        ];
        assert_eq!(paths(None, &all), ["/state/r1d.sock", SYSTEM_SOCKET]);
        assert_eq!(paths(None, &all[1..]), ["/xdg/r1d/r1d.sock", SYSTEM_SOCKET]);
        assert_eq!(
            paths(None, &all[2..]),
            ["/home/ada/.local/state/r1d/r1d.sock", SYSTEM_SOCKET]
        );
        assert_eq!(paths(None, &[]), [SYSTEM_SOCKET]);
    }

    #[test]
    fn an_empty_variable_counts_as_unset() {
        assert_eq!(
            paths(None, &[("R1D_STATE_DIR", ""), ("HOME", "/h")]),
            ["/h/.local/state/r1d/r1d.sock", SYSTEM_SOCKET]
        );
    }
}
