//! The files that the project ships parse.

use r1d_job::{DaemonConfig, Job};
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[test]
fn every_job_file_that_is_shipped_is_sound() {
    let mut files: Vec<PathBuf> = std::fs::read_dir(root().join("configs/jobs"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    for example in std::fs::read_dir(root().join("examples")).unwrap() {
        let entries = std::fs::read_dir(example.unwrap().path())
            .unwrap()
            .map(|e| e.unwrap().path());
        files.extend(entries.filter(|path| path.extension().is_some_and(|e| e == "toml")));
    }
    assert!(files.len() >= 6, "{files:?}");
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let job = Job::parse(&text, file.parent().unwrap())
            .unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        assert_eq!(
            Job::parse(&job.to_toml(), Path::new("/")).unwrap(),
            job,
            "{}",
            file.display()
        );
    }
}

#[test]
fn the_daemons_configurations_parse() {
    let text = std::fs::read_to_string(root().join("configs/r1d.toml")).unwrap();
    let config = DaemonConfig::parse(&text, Path::new("/etc/r1d")).unwrap();
    assert_eq!(
        config.node.state_dir.as_deref(),
        Some(Path::new("/var/lib/r1d"))
    );
    assert_eq!(
        DaemonConfig::dev().unwrap(),
        DaemonConfig::parse("", Path::new("/")).unwrap(),
        "dev.toml says nothing but defaults"
    );
}
