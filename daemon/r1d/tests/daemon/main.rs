//! The daemon as a process, with the fake worker and with the real one: one program, so that what
//! the tests share is compiled and linked once, and one test's wait is another's turn.

#![allow(clippy::disallowed_methods, reason = "a test's own thread may sleep")]

#[path = "../../../rewards/tests/guests/mod.rs"]
mod guests;
mod test_daemon;

mod bad_input;
mod children;
mod clients;
mod devices;
mod durable;
mod gangs;
mod hostile;
mod jobs;
mod judges;
mod kills;
mod left_behind;
mod models;
mod plugin;
mod preferences;
mod reload;
mod removal;
mod reuse;
mod review;
mod service;
mod strikes;
mod token_sets;
mod turns;
