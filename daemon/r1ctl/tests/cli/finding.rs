//! Where r1ctl looks for a daemon, and what it says when there is none.

use crate::fake_daemon::FakeDaemon;
use crate::fixtures as fix;
use crate::harness::{Home, golden};
use r1d_proto::control::Response;

fn jobs() -> Response {
    Response::Jobs(fix::jobs())
}

#[test]
fn a_named_socket_wins_over_all_others() {
    let home = Home::new();
    let named = home.path().join("named.sock");
    let daemon = FakeDaemon::answering(&named, jobs());
    home.run(&["list", "--socket", "named.sock"]).expect(0);
    let mut by_variable = home.command(&["list"]);
    by_variable.env("R1D_SOCKET", &named);
    home.finish(by_variable).expect(0);
    let mut by_both = home.command(&["--socket", "named.sock", "list"]);
    by_both.env("R1D_SOCKET", "/nowhere");
    home.finish(by_both).expect(0);
    assert_eq!(daemon.requests().len(), 3);
}

#[test]
fn a_state_directory_in_the_environment_is_found() {
    let home = Home::new();
    let _daemon = FakeDaemon::answering(&home.path().join("r1d.sock"), jobs());
    let mut by_state = home.command(&["list"]);
    by_state.env("R1D_STATE_DIR", home.path());
    home.finish(by_state).expect(0);
}

#[test]
fn without_a_daemon_the_places_tried_are_told_and_how_to_start_one() {
    let home = Home::new();
    // A socket whose daemon is gone, as `kill -9` leaves it.
    drop(FakeDaemon::answering(&home.socket(), jobs()));
    let run = home.run(&["list"]).expect(1);
    assert_eq!(run.stdout, "");
    golden("errors/no-daemon.txt", &run.stderr);
    let run = home.run(&["list", "--socket", "absent.sock"]).expect(1);
    golden("errors/no-daemon-at-named-socket.txt", &run.stderr);
}
