//! r1d.toml.

use r1d_job::DaemonConfig;
use r1d_job::daemon::{Devices, Listen, Log, LogFormat, Node, Retention, RewardHost, Torch};
use std::path::{Path, PathBuf};

fn parse(text: &str) -> Result<DaemonConfig, String> {
    DaemonConfig::parse(text, Path::new("/etc/r1d")).map_err(|e| e.to_string())
}

#[test]
fn every_key_is_read() {
    let text = r#"
        [node]
        name = "gpu-01"
        state_dir = "state"
        devices = ["cuda:0", "cuda:1"]
        [listen]
        socket = "/run/r1d.sock"
        admin_group = "ml-leads"
        [torch]
        lib = "/opt/libtorch/lib"
        threads = 3
        mkl_intel_kernels = false
        own_kernels = false
        [rewards]
        plugin_dirs = ["plugins"]
        threads = 5
        trusted_keys = ["abababababababababababababababababababababababababababababababab"]
        [retention]
        older_than_days = 30
        jobs_max = 1000
        size_max_gb = 2000
        keep_final = false
        spare = ["failed"]
        [log]
        level = "debug"
        format = "json"
    "#;
    let expected = DaemonConfig {
        node: Node {
            name: Some("gpu-01".into()),
            state_dir: Some("/etc/r1d/state".into()),
            devices: Devices::Listed(vec!["cuda:0".into(), "cuda:1".into()]),
        },
        listen: Listen {
            socket: Some("/run/r1d.sock".into()),
            admin_group: "ml-leads".into(),
            quic: (),
            http: (),
        },
        torch: Torch {
            lib: Some("/opt/libtorch/lib".into()),
            threads: 3,
            mkl_intel_kernels: false,
            own_kernels: false,
        },
        rewards: RewardHost {
            plugin_dirs: vec![PathBuf::from("/etc/r1d/plugins")],
            threads: 5,
            trusted_keys: vec![
                "abababababababababababababababababababababababababababababababab".into(),
            ],
        },
        retention: Retention {
            older_than_days: 30,
            jobs_max: 1000,
            size_max_gb: 2000,
            keep_final: false,
            spare: vec!["failed".into()],
        },
        cluster: (),
        log: Log {
            level: "debug".into(),
            format: LogFormat::Json,
        },
    };
    assert_eq!(parse(text), Ok(expected));
}

#[test]
fn mistakes_are_named() {
    assert_eq!(
        parse("[node]\nstate-dir = \"x\"").unwrap_err(),
        "line 2, [node]: unknown key `state-dir`; the nearest known key is `state_dir`"
    );
    assert!(
        parse("[node]\ndevices = [\"gpu0\"]")
            .unwrap_err()
            .contains("`devices` names \"gpu0\", which is no device")
    );
    assert!(
        parse("[node]\ndevices = [\"cuda:1\", \"cpu\", \"cuda:1\"]")
            .unwrap_err()
            .contains("names \"cuda:1\" twice")
    );
    assert!(
        parse("[node]\ndevices = \"cpu\"")
            .unwrap_err()
            .contains("expected \"auto\" or a list of strings")
    );
    assert!(
        parse("[rewards]\ntrusted_keys = [\"abc\"]")
            .unwrap_err()
            .contains("`trusted_keys` has \"abc\", which is no key")
    );
    assert!(
        parse("[retention]\nspare = [\"running\"]")
            .unwrap_err()
            .contains("`spare` has \"running\", which is no end of a job")
    );
    assert!(
        parse("[cluster]\njoin = []")
            .unwrap_err()
            .contains("`cluster` is not in this release")
    );
    assert!(
        parse("[listen]\nhttp = \"127.0.0.1:7420\"")
            .unwrap_err()
            .contains("`http` is not in this release")
    );
}

/// Several CPU devices have names of their own; one alone keeps the name that it always had.
#[test]
fn cpu_devices_are_told_apart() {
    let names = |list: &[&str]| {
        let listed: Vec<String> = list.iter().map(ToString::to_string).collect();
        r1d_job::daemon::names(&listed)
    };
    assert_eq!(names(&["cuda:0", "cpu"]), ["cuda:0", "cpu"]);
    let three = names(&["cpu", "cuda:1", "cpu"]);
    assert_eq!(three, ["cpu:0", "cuda:1", "cpu:1"]);
    let cpus = three.iter().map(|name| r1d_job::daemon::is_cpu(name));
    assert!(cpus.eq([true, false, true]));
    let two = parse("[node]\ndevices = [\"cpu\", \"cpu\"]").unwrap();
    assert_eq!(parse(&two.to_toml()).unwrap(), two);
    let many = format!("[node]\ndevices = {:?}", vec!["cpu"; 65]);
    assert!(parse(&many).unwrap_err().contains("65 CPU devices"));
}
