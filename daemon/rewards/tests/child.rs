//! Compiling in a child process and the cache of compiled code. Without a test harness, because
//! this executable is the child too.

mod guests;

use guests::{Guest, completion, component, load_bytes, returns, shipped};
use r1d_proto::verdict::Outcome;
use r1d_proto::world::{Clock, SharedClock, SystemClock};
use r1d_rewards::{Abandoned, Compiler, LoadAt, Options, RewardError, RewardSpec, Rewards};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some("compile-child") => return r1d_rewards::serve_child(),
        Some("die-child") => std::process::abort(),
        Some("fail-child") => return ExitCode::FAILURE,
        Some("killed-once-child") => {
            if !Path::new(&args[1]).exists() {
                std::fs::write(&args[1], "").unwrap();
                let pid = std::process::id().to_string();
                let kill = std::process::Command::new("kill")
                    .args(["-KILL", &pid])
                    .status();
                kill.unwrap();
            }
            return r1d_rewards::serve_child();
        }
        Some("count-child") => {
            let mut count = std::fs::OpenOptions::new()
                .append(true)
                .create(true)
                .open(&args[1])
                .unwrap();
            std::io::Write::write_all(&mut count, b".").unwrap();
            return r1d_rewards::serve_child();
        }
        // It reads the request, and sends nothing for as long as the daemon waits.
        Some("hang-child") => {
            std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink()).unwrap();
            return ExitCode::SUCCESS;
        }
        // It takes the beginning of the request, and no more.
        Some("stop-child") => {
            std::io::stdin().read_exact(&mut [0; 1 << 10]).unwrap();
            loop {
                std::thread::park();
            }
        }
        Some("--list") => return ExitCode::SUCCESS,
        _ => {}
    }
    let tests: [(&str, fn()); 12] = [
        (
            "a_plugin_compiled_by_the_child_runs",
            a_plugin_compiled_by_the_child_runs,
        ),
        (
            "a_child_that_dies_is_an_error",
            a_child_that_dies_is_an_error,
        ),
        (
            "a_child_that_is_killed_is_replaced",
            a_child_that_is_killed_is_replaced,
        ),
        (
            "a_bad_component_is_the_childs_error",
            a_bad_component_is_the_childs_error,
        ),
        (
            "a_flipped_bit_in_the_cache_is_compiled_again",
            a_flipped_bit_in_the_cache_is_compiled_again,
        ),
        (
            "a_bomb_meets_its_memory_limit_and_is_told_so",
            a_bomb_meets_its_memory_limit_and_is_told_so,
        ),
        (
            "who_shares_a_component_compiles_it_once",
            who_shares_a_component_compiles_it_once,
        ),
        (
            "a_child_that_nobody_waits_for_is_ended",
            a_child_that_nobody_waits_for_is_ended,
        ),
        (
            "a_child_that_stops_has_one_time_for_a_try",
            a_child_that_stops_has_one_time_for_a_try,
        ),
        (
            "no_plugin_is_blamed_for_a_compiler_that_is_not_started",
            no_plugin_is_blamed_for_a_compiler_that_is_not_started,
        ),
        (
            "no_plugin_is_blamed_for_an_instance_that_is_not_made",
            no_plugin_is_blamed_for_an_instance_that_is_not_made,
        ),
        (
            "who_waits_for_another_load_says_so",
            who_waits_for_another_load_says_so,
        ),
    ];
    for (name, test) in tests {
        test();
        println!("test {name} ... ok");
    }
    ExitCode::SUCCESS
}

fn open(cache_dir: Option<&Path>, child: &str) -> Rewards {
    open_with(cache_dir, vec![child.into()])
}

fn open_with(cache_dir: Option<&Path>, args: Vec<std::ffi::OsString>) -> Rewards {
    open_at(SystemClock::shared(), cache_dir, args)
}

fn open_at(clock: SharedClock, cache_dir: Option<&Path>, args: Vec<std::ffi::OsString>) -> Rewards {
    let compiler = Compiler::Child {
        program: std::env::current_exe().unwrap(),
        args,
    };
    let options = Options {
        plugin_dirs: vec![shipped()],
        cache_dir: cache_dir.map(PathBuf::from),
        threads: 1,
        compiler,
        clock,
    };
    Rewards::open(options).unwrap()
}

/// What a load tells, with the seconds that are left.
type Told = Arc<Mutex<Vec<(String, Option<u64>)>>>;

fn heard_by(rewards: &Rewards, heard: &Told) -> Rewards {
    let heard = heard.clone();
    rewards.telling(Arc::new(move |at: Option<LoadAt<'_>>| {
        let left = at.and_then(|at| Some(at.left?.as_secs()));
        let doing = at.map_or("", |at| at.doing).to_owned();
        heard.lock().unwrap().push((doing, left));
    }))
}

fn score_is_one(rewards: &Rewards) {
    let accuracy = rewards.load(&RewardSpec::named("accuracy")).unwrap();
    let judged = accuracy
        .score(&completion("<answer>2</answer>", Some("2")))
        .unwrap();
    assert_eq!(
        judged.outcome,
        Outcome::Score {
            value: 1.0,
            parts: vec![]
        }
    );
}

fn a_plugin_compiled_by_the_child_runs() {
    score_is_one(&open(None, "compile-child"));
}

fn a_child_that_dies_is_an_error() {
    let error = open(None, "die-child")
        .load(&RewardSpec::named("accuracy"))
        .err()
        .unwrap();
    assert!(
        matches!(&error, RewardError::Compile { why, .. } if why.contains(
            "5 times in a row the compiling process ended without an answer (signal: 6")),
        "{error}"
    );
}

/// What ends a child from outside says nothing of the component.
fn a_child_that_is_killed_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let mark = dir.path().join("mark");
    let heard = Told::default();
    let rewards = open_with(None, vec!["killed-once-child".into(), mark.into()]);
    score_is_one(&heard_by(&rewards, &heard));
    let again = "plugin accuracy is compiled again in 0.25 s, because the compiling process ended \
                 without an answer (signal: 9 (SIGKILL))";
    let heard = heard.lock().unwrap();
    let doings: Vec<&str> = heard.iter().map(|(doing, _)| &**doing).collect();
    let (loading, compiled) = (
        "loading plugin accuracy",
        "plugin accuracy is being compiled",
    );
    assert_eq!(doings, [loading, compiled, again, loading, ""]);
    let has_end: Vec<bool> = heard.iter().map(|(_, left)| left.is_some()).collect();
    assert_eq!(has_end, [false, true, true, false, false]);
    let error = open(None, "fail-child").load(&RewardSpec::named("accuracy"));
    let error = error.err().unwrap();
    assert!(matches!(&error, RewardError::Lost { .. }), "{error}");
}

/// A clock by which every look at it takes five seconds.
#[derive(Default)]
struct Looks(Mutex<u64>);

impl Clock for Looks {
    fn now(&self) -> Duration {
        let mut looks = self.0.lock().unwrap();
        *looks += 1;
        Duration::from_secs(5 * *looks)
    }

    fn unix(&self) -> Duration {
        Duration::from_secs(5 * *self.0.lock().unwrap())
    }
}

/// One that takes a part of its request has no time anew for the rest of it.
fn a_child_that_stops_has_one_time_for_a_try() {
    let (clock, heard) = (Arc::new(Looks::default()), Told::default());
    let rewards = open_at(clock.clone(), None, vec!["stop-child".into()]);
    let began = clock.unix();
    // More than a socket takes at once.
    let mut bytes = component(&Guest {
        score: &returns("(f32.const 1)"),
        ..Guest::default()
    });
    let custom = wat::parse_str(format!(
        "(component (@custom \"r\" \"{}\"))",
        "x".repeat(2 << 20)
    ));
    bytes.extend_from_slice(&custom.unwrap()[8..]);
    let error = load_bytes(&heard_by(&rewards, &heard), &bytes, |_| ())
        .err()
        .unwrap();
    assert!(
        matches!(&error, RewardError::Lost { why, .. } if why.contains("5 times in a row")),
        "{error}"
    );
    let took = (clock.unix() - began).as_secs();
    let wall = heard.lock().unwrap()[1].1.unwrap();
    // Each try is begun, and given up, within a look of its time.
    let each = wall + 3 * 5;
    assert!(
        (5 * wall..=5 * each).contains(&took),
        "{took} s, of {wall} s each"
    );
}

/// Two jobs whose plugin is one file.
fn who_waits_for_another_load_says_so() {
    let rewards = open(None, "hang-child");
    let (abandoned, heard) = (Abandoned::default(), Told::default());
    let has = |what: &str| {
        let heard = heard.lock().unwrap();
        heard.iter().any(|(doing, _)| doing.contains(what))
    };
    let until = |what: &str| {
        while !has(what) {
            std::thread::yield_now();
        }
    };
    let load = || {
        let rewards = heard_by(&rewards, &heard).until(abandoned.clone());
        rewards.load(&RewardSpec::named("format")).err()
    };
    std::thread::scope(|scope| {
        let loads = [scope.spawn(load), {
            until("plugin format is being compiled");
            scope.spawn(load)
        }];
        until("plugin format waits for another load of it");
        abandoned.set();
        for load in loads {
            let ended = load.join().unwrap();
            assert!(matches!(ended, Some(RewardError::Abandoned)));
        }
    });
}

/// Lets this process open `more` files beside those that it has; returns the limit before.
fn limit_files(more: u64) -> Rlimit {
    let is_free = |number: &u64| !Path::new(&format!("/proc/self/fd/{number}")).exists();
    let free = (0..).find(is_free).unwrap();
    let before = getrlimit(Resource::Nofile);
    let now = Rlimit {
        current: Some(free + more),
        ..before
    };
    setrlimit(Resource::Nofile, now).unwrap();
    before
}

fn is_the_file_limit(error: &RewardError) {
    let text = error.to_string();
    assert!(
        matches!(error, RewardError::Lost { .. })
            && text.contains("Too many open files")
            && text.contains("LimitNOFILE="),
        "{text}"
    );
}

/// The plugin's file can be opened, and the child's socket pair not any more.
fn no_plugin_is_blamed_for_a_compiler_that_is_not_started() {
    let rewards = open(None, "compile-child");
    let before = limit_files(1);
    let refused = rewards.load(&RewardSpec::named("accuracy")).err();
    setrlimit(Resource::Nofile, before).unwrap();
    is_the_file_limit(&refused.unwrap());
    score_is_one(&rewards);
}

/// The code is there, and the memory of its first instance takes a descriptor.
fn no_plugin_is_blamed_for_an_instance_that_is_not_made() {
    let dir = tempfile::tempdir().unwrap();
    score_is_one(&open(Some(dir.path()), "compile-child"));
    let rewards = open(Some(dir.path()), "die-child");
    let before = Mutex::new(None);
    let (loads, limit) = (Mutex::new(0), Arc::new(before));
    let limited = limit.clone();
    let telling = rewards.telling(Arc::new(move |at: Option<LoadAt<'_>>| {
        let mut loads = loads.lock().unwrap();
        *loads += u32::from(at.is_some_and(|at| at.doing == "loading plugin accuracy"));
        // It is told a second time once the component is there.
        if *loads == 2 {
            limited
                .lock()
                .unwrap()
                .get_or_insert_with(|| limit_files(0));
        }
    }));
    let refused = telling.load(&RewardSpec::named("accuracy")).err();
    setrlimit(Resource::Nofile, limit.lock().unwrap().take().unwrap()).unwrap();
    is_the_file_limit(&refused.unwrap());
    score_is_one(&rewards);
}

fn a_bad_component_is_the_childs_error() {
    let mut bytes = component(&Guest {
        score: &returns("(f32.const 1)"),
        ..Guest::default()
    });
    bytes.truncate(bytes.len() / 2);
    let error = load_bytes(&open(None, "compile-child"), &bytes, |_| ())
        .err()
        .unwrap();
    assert!(matches!(error, RewardError::Compile { .. }), "{error}");
}

/// wasmtime itself would run the damaged code.
fn a_flipped_bit_in_the_cache_is_compiled_again() {
    let dir = tempfile::tempdir().unwrap();
    score_is_one(&open(Some(dir.path()), "compile-child"));
    let file = || {
        let mut files = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().path());
        files
            .find(|path| {
                path.extension()
                    .is_some_and(|extension| extension == "code")
            })
            .unwrap()
    };
    // From the cache: the child is not asked.
    score_is_one(&open(Some(dir.path()), "die-child"));
    let good = std::fs::read(file()).unwrap();
    let mut bad = good.clone();
    let middle = bad.len() / 2;
    bad[middle] ^= 1;
    std::fs::write(file(), &bad).unwrap();
    assert!(
        open(Some(dir.path()), "die-child")
            .load(&RewardSpec::named("accuracy"))
            .is_err(),
        "damaged code was used"
    );
    score_is_one(&open(Some(dir.path()), "compile-child"));
    assert_eq!(
        std::fs::read(file()).unwrap(),
        good,
        "the cache is whole again"
    );
}

/// A few hundred bytes that make the compiler lay out gigabytes: each component is made of eight of
/// the one before it.
fn a_bomb_meets_its_memory_limit_and_is_told_so() {
    let level = |i: u32| {
        format!(
            "(component $c{} {})",
            i + 1,
            format!("(instance (instantiate $c{i}))").repeat(8)
        )
    };
    let levels: String = (0..9).map(level).collect();
    let bytes = wat::parse_str(format!(
        "(component (component $c0 (core module $m) (core instance (instantiate $m))) {levels} \
         (instance (instantiate $c9)))"
    ))
    .unwrap();
    assert!(bytes.len() < 2 << 10, "{} bytes", bytes.len());
    let rewards = open(None, "compile-child");
    let error = load_bytes(&rewards, &bytes, |_| ())
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.contains("takes more memory than the limit of 512 MiB for a component of"),
        "{error}"
    );
    score_is_one(&rewards);
}

fn who_shares_a_component_compiles_it_once() {
    let dir = tempfile::tempdir().unwrap();
    let count = dir.path().join("count");
    let rewards = open_with(None, vec!["count-child".into(), count.clone().into()]);
    let loaded: Vec<_> = std::thread::scope(|scope| {
        let loads: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| rewards.load(&RewardSpec::named("format")).unwrap()))
            .collect();
        loads.into_iter().map(|load| load.join().unwrap()).collect()
    });
    assert_eq!(
        std::fs::read(&count).unwrap().len(),
        1,
        "of {} loads",
        loaded.len()
    );
    drop(loaded);
    rewards.load(&RewardSpec::named("format")).unwrap();
    assert_eq!(
        std::fs::read(&count).unwrap().len(),
        2,
        "nobody had it any more"
    );
}

fn a_child_that_nobody_waits_for_is_ended() {
    let rewards = open(None, "hang-child");
    let abandoned = Abandoned::default();
    std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            rewards
                .until(abandoned.clone())
                .load(&RewardSpec::named("format"))
                .err()
        });
        abandoned.set();
        assert!(matches!(load.join().unwrap(), Some(RewardError::Abandoned)));
    });
}
