//! `r1ctl` as its users meet it: the real binary, a real socket, a daemon that says what the test
//! wants.

#![allow(
    clippy::disallowed_methods,
    reason = "a fake daemon lives on threads of its own: it may sleep"
)]

mod answers;
mod errors;
mod fake_daemon;
mod finding;
mod fixtures;
mod harness;
mod help;
mod logs;
mod model;
mod no_file;
mod on_terminal;
mod plugin;
mod report;
mod shape;
mod submit;
mod watch;
