//! What jobs read is read once, and not again by a daemon that starts anew.

use crate::test_daemon::TestDaemon;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;

/// The token sets of a daemon, with what tells one file from another in its place.
fn sets(daemon: &TestDaemon) -> BTreeMap<PathBuf, u64> {
    let entries = fs::read_dir(daemon.state().join("token-sets")).unwrap();
    let entries = entries.map(|entry| entry.unwrap());
    let sets = entries.map(|entry| (entry.path(), entry.metadata().unwrap().ino()));
    sets.collect()
}

#[test]
fn a_daemon_that_starts_anew_reads_no_data_again_and_mends_what_is_damaged() {
    let mut daemon = TestDaemon::new();
    daemon.plant("supervise-3", "kill-daemon");
    daemon.plant("generate-2", "kill-daemon");
    daemon.start();
    let job = daemon.submit(daemon.job(&[]));
    daemon.wait("the first kill", |daemon| daemon.revive().then_some(()));
    let before = sets(&daemon);
    assert!(before.len() >= 3, "{before:?}");
    daemon.wait("the second kill", |daemon| daemon.revive().then_some(()));
    assert_eq!(sets(&daemon), before, "nothing is made again");
    // A daemon finds each of them other than it was written.
    daemon.kill();
    for (index, path) in before.keys().enumerate() {
        let mut bytes = fs::read(path).unwrap();
        let last = bytes.len() - 1;
        match index % 3 {
            0 => bytes[130] ^= 1,
            1 => bytes[last] ^= 1,
            _ => bytes.truncate(last),
        }
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(path, bytes).unwrap();
    }
    daemon.start();
    let status = daemon.wait_succeeded(&job);
    assert_eq!(daemon.outcome(&status), TestDaemon::undisturbed(&[]));
    assert!(
        sets(&daemon).keys().eq(before.keys()),
        "each is there again"
    );
}
