//! The process that makes token sets: it makes what its parent would, and can do nothing else. This
//! executable is also that process.

use r1d_ingest::child::confine;
use r1d_ingest::{
    Contents, GetError, MakeError, MakeStatus, Maker, Order, Orders, Request, TokenSets,
};
use r1d_job::DataSource;
use std::fs::{self, File};
use std::io;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Duration;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["ingest-child"] => return r1d_ingest::serve_child(),
        ["silent-child"] => return ExitCode::FAILURE,
        ["crash-child"] => std::process::abort(),
        ["once-child", signal, mark] => return once(signal, Path::new(mark)),
        ["--list", ..] => return ExitCode::SUCCESS,
        ["confined-child", allowed] => return try_everything(Path::new(allowed)),
        _ => {}
    }
    let tests: [(&str, fn()); 8] = [
        ("a_child_makes_the_same_bytes", a_child_makes_the_same_bytes),
        ("errors_are_the_same", errors_are_the_same),
        ("a_child_that_dies_is_named", a_child_that_dies_is_named),
        ("a_child_that_crashes_is_told", a_child_that_crashes_is_told),
        (
            "a_child_that_is_killed_or_stopped_is_replaced",
            a_child_that_is_killed_or_stopped_is_replaced,
        ),
        (
            "a_child_makes_the_order_of_a_long_epoch",
            a_child_makes_the_order_of_a_long_epoch,
        ),
        ("who_leaves_ends_the_child", who_leaves_ends_the_child),
        (
            "a_confined_process_can_do_nothing",
            a_confined_process_can_do_nothing,
        ),
    ];
    let wanted = |name: &str| {
        let filters = args.iter().filter(|arg| !arg.starts_with('-'));
        let mut filters = filters.peekable();
        filters.peek().is_none() || filters.any(|filter| name.contains(filter.as_str()))
    };
    for (name, test) in tests.into_iter().filter(|(name, _)| wanted(name)) {
        test();
        println!("test {name} ... ok");
    }
    ExitCode::SUCCESS
}

/// The contents of files in place of their hashes.
struct Whole;

impl Contents for Whole {
    fn sha256(&self, path: &Path) -> io::Result<String> {
        Ok(String::from_utf8_lossy(&fs::read(path)?).into_owned())
    }
}

fn child(arg: &str) -> Maker {
    child_with(&[arg])
}

fn child_with(args: &[&str]) -> Maker {
    Maker::Child {
        program: std::env::current_exe().unwrap(),
        args: args.iter().map(Into::into).collect(),
        idle_max: Duration::from_secs(1),
    }
}

/// A child that sends itself a signal the first time, and does its work from then on.
fn once(signal: &str, mark: &Path) -> ExitCode {
    if !mark.exists() {
        fs::write(mark, "").unwrap();
        let pid = std::process::id().to_string();
        Command::new("kill").args([signal, &pid]).status().unwrap();
    }
    r1d_ingest::serve_child()
}

fn folder(dir: &Path, name: &str, maker: Maker) -> TokenSets {
    TokenSets::open(&dir.join(name), "build".into(), maker, 1 << 30).unwrap()
}

fn rows(path: &Path) -> Request {
    Request::Rows {
        source: DataSource {
            prompt: Some("question".into()),
            ..DataSource::new("train", path)
        },
        files: vec![path.into()],
    }
}

fn lines(count: usize) -> String {
    (0..count)
        .map(|i| format!("{{\"question\": \"number {i}\"}}\n"))
        .collect()
}

fn get(sets: &TokenSets, request: &Request) -> Result<Vec<u8>, GetError> {
    let set = sets.get(request, &Whole, &mut |_| true)?;
    Ok((0..set.len())
        .flat_map(|record| set.record(record).unwrap())
        .collect())
}

fn a_child_makes_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.jsonl");
    fs::write(&path, lines(3000)).unwrap();
    let made = get(
        &folder(dir.path(), "a", child("ingest-child")),
        &rows(&path),
    )
    .unwrap();
    let other = get(&folder(dir.path(), "b", Maker::InProcess), &rows(&path)).unwrap();
    assert!(made == other && made.len() > 3000);
}

fn errors_are_the_same() {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("a.jsonl", lines(2) + "{\"question\": 3\n"),
        ("b.jsonl", lines(2) + "{\"answer\": \"x\"}\n"),
        ("c.jsonl", String::new()),
        ("d.parquet", "PAR1 and no more".into()),
        ("e.txt", lines(1)),
    ] {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        let by = |maker: Maker| {
            let sets = folder(dir.path(), "sets", maker);
            get(&sets, &rows(&path)).unwrap_err().to_string()
        };
        let told = by(child("ingest-child"));
        assert_eq!(told, by(Maker::InProcess));
        assert!(told.contains(name), "{told}");
    }
    assert_eq!(fs::read_dir(dir.path().join("sets")).unwrap().count(), 0);
}

fn a_child_that_dies_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.jsonl");
    fs::write(&path, lines(1)).unwrap();
    let sets = folder(dir.path(), "sets", child("silent-child"));
    let error = get(&sets, &rows(&path)).unwrap_err();
    let told = "data.train: 5 times in a row the reading process ended without an answer (exit";
    assert!(error.to_string().starts_with(told), "{error}");
    assert!(matches!(error, GetError::Make(MakeError::Lost(_))));
    assert_eq!(fs::read_dir(dir.path().join("sets")).unwrap().count(), 0);
}

/// What crashes each child is in what it reads: nothing is to be gained by waiting.
fn a_child_that_crashes_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.jsonl");
    fs::write(&path, lines(1)).unwrap();
    let error = get(
        &folder(dir.path(), "sets", child("crash-child")),
        &rows(&path),
    )
    .unwrap_err();
    let told = "data.train: 5 times in a row the reading process ended without an answer (signal";
    assert!(error.to_string().starts_with(told), "{error}");
    assert!(matches!(error, GetError::Make(MakeError::Told(_))));
}

fn a_child_that_is_killed_or_stopped_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.jsonl");
    fs::write(&path, lines(3000)).unwrap();
    let expected = get(&folder(dir.path(), "b", Maker::InProcess), &rows(&path)).unwrap();
    for (signal, cause) in [
        ("-KILL", "ended without an answer (signal: 9 (SIGKILL))"),
        ("-STOP", "got no further for 1 s"),
    ] {
        let mark = dir.path().join(signal);
        let maker = child_with(&["once-child", signal, mark.to_str().unwrap()]);
        let (sets, mut heard) = (folder(dir.path(), &format!("sets{signal}"), maker), None);
        let set = sets.get(&rows(&path), &Whole, &mut |status| {
            if let MakeStatus::Again { cause, .. } = status {
                heard = Some(cause.to_owned());
            }
            true
        });
        let set = set.unwrap();
        assert_eq!(heard.unwrap(), format!("the reading process {cause}"));
        let made = (0..set.len()).flat_map(|record| set.record(record).unwrap());
        assert!(made.collect::<Vec<_>>() == expected, "{signal}");
    }
}

/// Also where the first child is killed: with the rows that this process finds by itself.
fn a_child_makes_the_order_of_a_long_epoch() {
    const LEN: u64 = (1 << 20) + 77;
    let dir = tempfile::tempdir().unwrap();
    let mark = dir.path().join("mark");
    let order = Order {
        seed: 3,
        stage: 1,
        shuffle: true,
    };
    let rows = |maker: Maker| {
        let orders = Orders::new(dir.path(), Arc::new(maker));
        orders.rows_of_step(order, 2, LEN / 4, LEN)
    };
    let alone = rows(Maker::InProcess).unwrap();
    assert_eq!(rows(child("ingest-child")).unwrap(), alone);
    let once = child_with(&["once-child", "-KILL", mark.to_str().unwrap()]);
    assert_eq!(rows(once).unwrap(), alone);
    assert!(mark.exists(), "the first one was killed");
    let error = rows(child("crash-child")).unwrap_err().to_string();
    assert!(error.contains("the order of an epoch"), "{error}");
}

fn who_leaves_ends_the_child() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.jsonl");
    fs::write(&path, lines(200_000)).unwrap();
    let sets = folder(dir.path(), "sets", child("ingest-child"));
    let mut heard = 0;
    let left = sets.get(&rows(&path), &Whole, &mut |status| {
        heard = status.done().rows;
        heard == 0
    });
    assert!(matches!(left, Err(GetError::Make(MakeError::Unwanted))));
    assert!(
        heard > 0 && heard < 200_000,
        "it ends at the first report: {heard}"
    );
    assert_eq!(fs::read_dir(dir.path().join("sets")).unwrap().count(), 0);
}

fn a_confined_process_can_do_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let allowed = dir.path().join("allowed");
    fs::write(&allowed, "mine").unwrap();
    fs::write(dir.path().join("other"), "not mine").unwrap();
    let status = Command::new(std::env::current_exe().unwrap())
        .arg("confined-child")
        .arg(&allowed)
        .status()
        .unwrap();
    assert!(status.success());
    assert!(!dir.path().join("new").exists());
}

/// Tries what a process without rights must not be able to do, from inside of it.
fn try_everything(allowed: &Path) -> ExitCode {
    let dir: PathBuf = allowed.parent().unwrap().into();
    let has_landlock = fs::read_to_string("/proc/sys/kernel/osrelease").is_ok_and(|release| {
        let mut numbers = release
            .split('.')
            .filter_map(|number| number.parse::<u32>().ok());
        // Before 5.13, or built without it, the kernel has no Landlock.
        numbers.next().is_some_and(|major| major >= 6)
    });
    confine(&[allowed.into()]).unwrap();
    assert_eq!(fs::read_to_string(allowed).unwrap(), "mine");
    if has_landlock {
        assert!(
            fs::read_to_string(dir.join("other")).is_err(),
            "another file"
        );
        assert!(fs::read("/etc/passwd").is_err(), "a file of the system");
        assert!(File::create(dir.join("new")).is_err(), "a new file");
        assert!(
            File::options().write(true).open(allowed).is_err(),
            "writing"
        );
        assert!(fs::remove_file(allowed).is_err(), "removing");
        assert!(fs::read_dir(&dir).is_err(), "listing");
    }
    assert!(UnixStream::pair().is_err(), "a socket pair");
    assert!(
        UnixStream::connect("/run/systemd/notify").is_err(),
        "a socket"
    );
    let tcp = TcpStream::connect("127.0.0.1:9").unwrap_err();
    assert_eq!(tcp.kind(), io::ErrorKind::PermissionDenied, "the network");
    assert!(
        Command::new("/bin/true").status().is_err(),
        "another program"
    );
    ExitCode::SUCCESS
}
