//! Checks that the daemon can reach what a job names. It runs as a user of its own, and as a
//! service in its own view of the file system, so files that the submitter sees may be out of its
//! reach. The submitter then learns at once what to do.

use crate::inputs;
use r1d_job::Job;
use r1d_proto::{shown, user_file};
use r1d_store::layout::OWN_DIRECTORIES;
use rustix::fs::{Access, AtFlags, CWD};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// Directories that systemd's `PrivateTmp=` replaces by the service's own.
const TEMPORARY: [&str; 2] = ["/tmp", "/var/tmp"];
/// A part of the real name of such a directory.
const PRIVATE_TMP_MARK: &str = "/systemd-private-";
/// systemd sets this variable for every process of a unit.
const SERVICE_VARIABLE: &str = "INVOCATION_ID";

/// Longest name and path, if the file system does not say (NAME_MAX, PATH_MAX without its final
/// zero).
const NAME_MAX_BYTES: usize = 255;
const PATH_MAX_BYTES: usize = 4095;
/// Room for what is written below a directory: job, stage, step and the names of files, some of
/// which are longer while they are incomplete.
const BELOW_MAX_BYTES: usize = 300;

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unreachable {
    #[error(
        "{}: the daemon runs as user {user}, who may not {deed} {}: let it (`setfacl -m \
         u:{user}:{rights} {}`, or chmod), or put the files elsewhere",
        path.display(), culprit.display(), culprit.display()
    )]
    Forbidden {
        path: PathBuf,
        culprit: PathBuf,
        user: String,
        deed: &'static str,
        rights: &'static str,
    },
    #[error(
        "{}: the unit of the daemon hides {} from it (ProtectHome=): set `ProtectHome=read-only` \
         in a drop-in (`systemctl edit r1d`), or put the files elsewhere",
        path.display(), hidden.display()
    )]
    HiddenHome { path: PathBuf, hidden: PathBuf },
    #[error(
        "{}: the daemon does not see it, because its unit gives it a {} of its own \
         (PrivateTmp=yes): put the files elsewhere, or set `PrivateTmp=no` in a drop-in \
         (`systemctl edit r1d`)",
        path.display(), hidden.display()
    )]
    PrivateTmp { path: PathBuf, hidden: PathBuf },
    #[error("`checkpoint.to` is {}: {} is read-only for the daemon: {advice}", to.display(),
        dir.display())]
    ReadOnly {
        to: PathBuf,
        dir: PathBuf,
        advice: String,
    },
    #[error(
        "`checkpoint.to` is {}: the daemon runs as user {user}, who may not write in {}: let it \
         (`setfacl -m u:{user}:rwx {}`, or chmod), or name another directory",
        to.display(), dir.display(), dir.display()
    )]
    Unwritable {
        to: PathBuf,
        dir: PathBuf,
        user: String,
    },
    #[error("`checkpoint.to` is {}: {} is not a directory: name one", to.display(), dir.display())]
    NoDirectory { to: PathBuf, dir: PathBuf },
    #[error("`checkpoint.to` is {}: {} is the kernel's own, as /proc and /sys, and takes no \
             files: name a directory on a disk", to.display(), dir.display())]
    NoDisk { to: PathBuf, dir: PathBuf },
    #[error("`checkpoint.to` is {}: {what} has {bytes} bytes, and the file system takes \
             {bytes_max}: name a shorter one", shown::quote(&to.display().to_string()))]
    TooLong {
        to: PathBuf,
        what: &'static str,
        bytes: usize,
        bytes_max: usize,
    },
    #[error("`checkpoint.to` is {}: the daemon keeps what is its own in {}: name another directory",
        to.display(), dir.display())]
    Own { to: PathBuf, dir: PathBuf },
}

/// Where the daemon runs, and as which user.
pub(crate) struct Surroundings {
    user: String,
    private_tmp: bool,
    is_service: bool,
    state_dir: PathBuf,
}

impl Surroundings {
    /// The surroundings of this process.
    pub(crate) fn own(state_dir: &Path) -> Surroundings {
        let uid = rustix::process::geteuid().as_raw();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        Surroundings {
            user: user_name(
                uid,
                &std::fs::read_to_string("/etc/passwd").unwrap_or_default(),
            ),
            private_tmp: has_private_tmp(&mounts),
            is_service: std::env::var_os(SERVICE_VARIABLE).is_some(),
            state_dir: state_dir.into(),
        }
    }
}

/// The user's name in the password file, or the number if it has none.
fn user_name(uid: u32, passwd: &str) -> String {
    let name = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == uid.to_string()).then(|| name.to_owned())
    });
    name.unwrap_or_else(|| uid.to_string())
}

/// Whether systemd replaced a temporary directory, judged by lines of mountinfo: `36 35 98:0 ROOT
/// MOUNT-POINT …`.
fn has_private_tmp(mounts: &str) -> bool {
    mounts.lines().any(|line| {
        let mut fields = line.split(' ');
        let (root, point) = (fields.nth(3), fields.next());
        point.is_some_and(|point| TEMPORARY.contains(&point))
            && root.is_some_and(|root| root.contains(PRIVATE_TMP_MARK))
    })
}

/// Checks all files that the job reads, and the directory of its checkpoints. Other faults of a
/// file are reported when it is read. Blocks.
pub(crate) fn check(job: &Job, around: &Surroundings) -> Result<(), Unreachable> {
    inputs::named(job)
        .iter()
        .chain(&inputs::paths(job))
        .try_for_each(|path| check_read(path, around))?;
    job.checkpoint
        .to
        .as_deref()
        .map_or(Ok(()), |to| check_write(to, around))
}

fn check_read(path: &Path, around: &Surroundings) -> Result<(), Unreachable> {
    let looked = match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => std::fs::read_dir(path).map(drop),
        Ok(_) => user_file::open(path).map(drop),
        Err(error) => Err(error),
    };
    let home = |dir: &Path| matches!(dir.to_str(), Some("/home" | "/root" | "/run/user"));
    match looked.map_err(|error| error.kind()) {
        Err(ErrorKind::PermissionDenied) => {
            let culprit = path
                .ancestors()
                .skip(1)
                .collect::<Vec<_>>()
                .into_iter()
                .rev()
                .find(|dir| !may(dir, Access::EXEC_OK));
            let path = path.to_path_buf();
            Err(match culprit {
                Some(dir) if around.is_service && home(dir) => Unreachable::HiddenHome {
                    path,
                    hidden: dir.into(),
                },
                Some(dir) => Unreachable::Forbidden {
                    path,
                    culprit: dir.into(),
                    user: around.user.clone(),
                    deed: "enter",
                    rights: "x",
                },
                None if path.is_dir() => Unreachable::Forbidden {
                    culprit: path.clone(),
                    path,
                    user: around.user.clone(),
                    deed: "list",
                    rights: "rx",
                },
                None => Unreachable::Forbidden {
                    culprit: path.clone(),
                    path,
                    user: around.user.clone(),
                    deed: "read",
                    rights: "r",
                },
            })
        }
        Err(ErrorKind::NotFound) if around.private_tmp => {
            match TEMPORARY.iter().find(|dir| path.starts_with(dir)) {
                Some(hidden) => Err(Unreachable::PrivateTmp {
                    path: path.into(),
                    hidden: hidden.into(),
                }),
                None => Ok(()),
            }
        }
        _ => Ok(()),
    }
}

/// Checks that a directory could be made at `to`: nothing is written before the job runs.
fn check_write(to: &Path, around: &Surroundings) -> Result<(), Unreachable> {
    let there = to
        .ancestors()
        .find(|dir| dir.symlink_metadata().is_ok())
        .unwrap_or(Path::new("/"));
    if !there.is_dir() {
        check_read(there, around)?;
        return Err(Unreachable::NoDirectory {
            to: to.into(),
            dir: there.into(),
        });
    }
    fits(to, there)?;
    if user_file::is_of_the_kernel(there).unwrap_or(false) {
        return Err(Unreachable::NoDisk {
            to: to.into(),
            dir: there.into(),
        });
    }
    if let Some(dir) = own_directory(to, there, &around.state_dir) {
        return Err(Unreachable::Own { to: to.into(), dir });
    }
    match access(there, Access::WRITE_OK | Access::EXEC_OK) {
        Err(error) if error.kind() == ErrorKind::ReadOnlyFilesystem => {
            let advice = if around.is_service {
                format!(
                    "its unit makes everything so but its own directories (ProtectSystem=strict): \
                     add `ReadWritePaths={}` in a drop-in (`systemctl edit r1d`)",
                    there.display()
                )
            } else {
                "name a directory on another file system".to_owned()
            };
            Err(Unreachable::ReadOnly {
                to: to.into(),
                dir: there.into(),
                advice,
            })
        }
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Err(Unreachable::Unwritable {
            to: to.into(),
            dir: there.into(),
            user: around.user.clone(),
        }),
        _ => Ok(()),
    }
}

/// Checks that the names in `to`, and those of checkpoints below it, are not too long for `there`.
fn fits(to: &Path, there: &Path) -> Result<(), Unreachable> {
    let too_long = |what, bytes, bytes_max| Unreachable::TooLong {
        to: to.into(),
        what,
        bytes,
        bytes_max,
    };
    let name_max =
        rustix::fs::statvfs(there).map_or(NAME_MAX_BYTES, |found| found.f_namemax as usize);
    let longest = to
        .components()
        .map(|name| name.as_os_str().len())
        .max()
        .unwrap_or(0);
    if longest > name_max {
        return Err(too_long("a name in it", longest, name_max));
    }
    let bytes = to.as_os_str().len();
    if bytes > PATH_MAX_BYTES - BELOW_MAX_BYTES {
        Err(too_long("it", bytes, PATH_MAX_BYTES - BELOW_MAX_BYTES))
    } else {
        Ok(())
    }
}

/// The daemon's own directory in which checkpoints would end up, links followed; `None` if they
/// would not.
fn own_directory(to: &Path, there: &Path, state_dir: &Path) -> Option<PathBuf> {
    let below = to.strip_prefix(there).unwrap_or(Path::new(""));
    let real = std::fs::canonicalize(there).ok()?.join(below);
    let state_dir = std::fs::canonicalize(state_dir).ok()?;
    let of_state = OWN_DIRECTORIES
        .iter()
        .map(|name| state_dir.join(name))
        .find(|own| real.starts_with(own));
    of_state.or_else(|| (real == state_dir).then_some(state_dir))
}

fn may(path: &Path, access_wanted: Access) -> bool {
    access(path, access_wanted).is_ok()
}

/// Checks access with the effective user's rights.
fn access(path: &Path, wanted: Access) -> io::Result<()> {
    Ok(rustix::fs::accessat(CWD, path, wanted, AtFlags::EACCESS)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn around(private_tmp: bool, is_service: bool) -> Surroundings {
        Surroundings {
            user: "r1d".into(),
            private_tmp,
            is_service,
            state_dir: "/nowhere".into(),
        }
    }

    #[test]
    fn a_user_is_called_by_its_name() {
        let passwd =
            "root:x:0:0:root:/root:/bin/sh\nr1d:x:998:997::/var/lib/r1d:/usr/sbin/nologin\n";
        assert_eq!(user_name(998, passwd), "r1d");
        assert_eq!(user_name(0, passwd), "root");
        assert_eq!(user_name(7, passwd), "7");
    }

    #[test]
    fn a_tmp_of_the_services_own_is_told_by_its_mount() {
        let own = "512 480 8:1 /tmp/systemd-private-0f3e-r1d.service-Xy/tmp /tmp rw,nosuid - ext4 \
                   /dev/sda1 rw\n";
        let shared = "30 1 8:1 / / rw - ext4 /dev/sda1 rw\n31 30 0:28 / /tmp rw - tmpfs tmpfs rw\n";
        assert!(has_private_tmp(&format!("{shared}{own}")));
        assert!(!has_private_tmp(shared) && !has_private_tmp(""));
    }

    #[test]
    fn what_a_private_tmp_hides_is_told_and_what_is_missing_elsewhere_is_left_to_its_reader() {
        let said = check_read(Path::new("/tmp/none/rows.jsonl"), &around(true, true))
            .unwrap_err()
            .to_string();
        assert!(
            said.contains("/tmp/none/rows.jsonl")
                && said.contains("PrivateTmp=no")
                && said.contains("systemctl edit r1d"),
            "{said}"
        );
        assert_eq!(
            check_read(Path::new("/tmp/none/rows.jsonl"), &around(false, true)),
            Ok(())
        );
        assert_eq!(
            check_read(Path::new("/srv/none/rows.jsonl"), &around(true, true)),
            Ok(())
        );
    }

    #[test]
    fn a_directory_for_checkpoints_is_looked_for_where_it_would_be_made() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(
            check_write(&dir.path().join("not/yet/there"), &around(false, true)),
            Ok(())
        );
        std::fs::write(dir.path().join("file"), "").unwrap();
        let said = check_write(&dir.path().join("file/below"), &around(false, true)).unwrap_err();
        assert!(matches!(said, Unreachable::NoDirectory { .. }), "{said}");
    }

    #[test]
    fn where_no_checkpoint_can_be_kept_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        for name in OWN_DIRECTORIES {
            std::fs::create_dir_all(state.join(name)).unwrap();
        }
        std::os::unix::fs::symlink(&state, dir.path().join("link")).unwrap();
        let around = Surroundings {
            state_dir: state.clone(),
            ..around(false, false)
        };
        let said = |to: &Path| check_write(to, &around).map_err(|error| error.to_string());
        for to in ["/proc/x", "/sys/x/y", "/proc/self/fd"] {
            let error = said(Path::new(to)).unwrap_err();
            assert!(
                error.contains(&format!("`checkpoint.to` is {to}: "))
                    && error.contains("takes no files"),
                "{error}"
            );
        }
        let error = said(&dir.path().join("x".repeat(300)).join("y")).unwrap_err();
        assert!(
            error.contains("a name in it has 300 bytes, and the file system takes 255"),
            "{error}"
        );
        let error = said(&dir.path().join("x/".repeat(2000))).unwrap_err();
        assert!(
            error.contains("it has 4") && error.contains("name a shorter one"),
            "{error}"
        );
        for own in [
            "state",
            "state/jobs",
            "state/jobs/a/b",
            "state/plugins",
            "state/cache/x",
            "link",
            "link/jobs/new",
        ] {
            let error = said(&dir.path().join(own)).unwrap_err();
            assert!(
                error.contains("its own in") && error.contains("name another directory"),
                "{own}: {error}"
            );
        }
        // The unit lets the daemon write to its state directory alone.
        for free in ["state/checkpoints", "checkpoints", "state-2", "x"] {
            assert_eq!(said(&dir.path().join(free)), Ok(()), "{free}");
        }
    }
}
