//! The command line itself: help, usage errors, completions, man pages.

use crate::harness::{Home, golden};

const HELPED: usize = 40;

/// Those with a golden help text come first.
const COMMANDS: [&[&str]; HELPED + 3] = [
    &[],
    &["submit"],
    &["list"],
    &["status"],
    &["logs"],
    &["cancel"],
    &["pause"],
    &["resume"],
    &["requeue"],
    &["rm"],
    &["prune"],
    &["plan"],
    &["samples"],
    &["trace"],
    &["report"],
    &["why"],
    &["dataset"],
    &["dataset", "list"],
    &["dataset", "review"],
    &["nodes"],
    &["explain"],
    &["model"],
    &["model", "verify"],
    &["model", "generate"],
    &["model", "info"],
    &["model", "convert"],
    &["plugin"],
    &["plugin", "new"],
    &["plugin", "build"],
    &["plugin", "test"],
    &["plugin", "bench"],
    &["plugin", "check"],
    &["plugin", "score"],
    &["plugin", "list"],
    &["plugin", "inspect"],
    &["plugin", "keygen"],
    &["plugin", "sign"],
    &["plugin", "reload"],
    &["rescore"],
    &["shutdown"],
    &["completions"],
    &["man"],
    &["man", "--dir", "x"],
];

#[test]
fn help_of_every_command_is_as_written_down() {
    let home = Home::new();
    for words in &COMMANDS[..HELPED] {
        let name = if words.is_empty() {
            "r1ctl".into()
        } else {
            format!("r1ctl-{}", words.join("-"))
        };
        let run = home.run(&[words, &["--help"][..]].concat()).expect(0);
        assert_eq!(run.stderr, "");
        golden(&format!("help/{name}.txt"), &run.stdout);
    }
}

#[test]
fn the_man_pages_cover_every_command_that_help_lists() {
    let home = Home::new();
    home.run(&["man", "--dir", "pages"]).expect(0);
    for words in &COMMANDS[..HELPED] {
        let page = home
            .path()
            .join("pages")
            .join([&["r1ctl"], *words].concat().join("-") + ".1");
        let text =
            std::fs::read_to_string(&page).unwrap_or_else(|e| panic!("{}: {e}", page.display()));
        assert!(text.contains(".TH"), "{text}");
    }
    let listed = home.run(&["--help"]).expect(0).stdout;
    let commands = listed
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty());
    let names: Vec<&str> = commands
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(
        names
            .iter()
            .all(|name| COMMANDS.iter().any(|words| words.first() == Some(name))),
        "without a golden help: {names:?}"
    );
    assert!(
        home.run(&["man"])
            .expect(0)
            .stdout
            .contains("Submit training jobs")
    );
}

#[test]
fn completions_know_the_commands_and_their_options() {
    let home = Home::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = home.run(&["completions", shell]).expect(0).stdout;
        for word in ["submit", "samples", "verify", "golden", "reconnect"] {
            assert!(script.contains(word), "{shell}: no {word}");
        }
    }
}

#[test]
fn a_wrong_command_line_exits_64_and_says_why_on_stderr() {
    let home = Home::new();
    let cases: [(&[&str], &str); 7] = [
        (&[], "Usage"),
        (&["sumbit"], "submit"),
        (&["status"], "<JOB>"),
        (&["list", "--nope"], "--nope"),
        (&["list", "-o", "yaml"], "json"),
        (&["submit", "job.toml", "--priority", "high"], "--priority"),
        (&["list", "--timeout", "0"], "--timeout"),
    ];
    for (words, part) in cases {
        let run = home.run(words).expect(64);
        assert_eq!(run.stdout, "", "{words:?}");
        assert!(run.stderr.contains(part), "{words:?}: {}", run.stderr);
    }
}

#[test]
fn help_and_version_are_no_errors() {
    let home = Home::new();
    assert_eq!(
        home.run(&["--version"]).expect(0).stdout,
        format!("r1ctl {}\n", env!("CARGO_PKG_VERSION"))
    );
    home.run(&["-h"]).expect(0);
}

#[test]
fn words_above_columns_are_explained() {
    let home = Home::new();
    for word in [
        "DURABLE",
        "durable",
        "HOST MEMORY",
        "HOST MEMORY ≤",
        "SNAPSHOT",
        "GRADIENTS",
        "VALUE MODEL",
        "REWARD MODELS",
        "JUDGES",
        "DATA SET",
    ] {
        let said = home.run(&["explain", word]).expect(0).stdout;
        assert!(said.contains(" above a column\n  "), "{word}: {said}");
    }
    let both = home.run(&["explain", "checkpoints"]).expect(0).stdout;
    assert!(both.starts_with("CHECKPOINTS above a column\n"), "{both}");
    let key = home.run(&["explain", "learning_rate"]).expect(0).stdout;
    assert!(!key.contains("above a column"), "{key}");
}

/// A variable that names the socket is no word of the command line, and no usage asks for it.
#[test]
fn a_usage_line_asks_for_no_socket() {
    let home = Home::new();
    let mut command = home.command(&["status"]);
    let refused = command.env("R1D_SOCKET", "/run/x.sock").output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(
        said.contains("Usage: r1ctl status") && !said.contains("--socket"),
        "{said}"
    );
}
