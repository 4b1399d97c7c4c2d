//! Who is at the other end of a connection: the kernel tells the user's id, the system's user
//! database the name and the groups. It is asked anew for each request, so that a change of a group
//! counts at once.

use crate::access::Caller;
use crate::admission::Lane;
use crate::tasks;
use r1d_ledger::User;
use r1d_proto::control::error::ControlError;
use std::time::Duration;

/// Longest wait for the system's user database, which may be in the network. Without its answer a
/// caller has no groups.
const LOOK_UP_MAX: Duration = Duration::from_secs(10);
/// The id that stands for a peer whose id the kernel does not tell: no user has it.
pub(crate) const UNKNOWN_UID: u32 = u32::MAX;

/// Finds out who the user is. Waits for a turn in `room`, which bounds how many threads a user
/// database that does not answer can hold.
pub(crate) async fn find(
    uid: u32,
    admin_group: String,
    room: &Lane,
) -> Result<Caller, ControlError> {
    let turn = room.enter(uid)?;
    let asked = async move {
        let turn = turn.await?;
        let looked = tasks::blocking(move || {
            let _turn = turn;
            look_up(uid, &admin_group)
        });
        Ok(looked.await.unwrap_or_else(|_| nameless(uid)))
    };
    match tokio::time::timeout(LOOK_UP_MAX, asked).await {
        Ok(found) => found,
        Err(_) => {
            tracing::warn!(
                "the system's user database did not answer within {} s: user {uid} has no groups \
                 here meanwhile",
                LOOK_UP_MAX.as_secs()
            );
            Ok(nameless(uid))
        }
    }
}

/// Warns of a group of administrators that the system does not know: nobody can be in it.
pub(crate) async fn warn_of_no_group(admin_group: String) {
    let name = admin_group.clone();
    let known = tasks::blocking(move || uzers::get_group_by_name(&name).is_some()).await;
    if let Ok(false) = known {
        tracing::warn!(
            "the system knows no group {admin_group} (`[listen] admin_group`): until it does, only \
             root and the daemon's own user are administrators"
        );
    }
}

/// What the user's id alone tells.
fn nameless(uid: u32) -> Caller {
    let user = User {
        uid,
        name: uid.to_string(),
    };
    Caller {
        user,
        is_admin: uid == 0 || uid == rustix::process::geteuid().as_raw(),
    }
}

/// Asks the system's user database. Blocks.
fn look_up(uid: u32, admin_group: &str) -> Caller {
    let mut caller = nameless(uid);
    let Some(known) = uzers::get_user_by_uid(uid) else {
        return caller;
    };
    caller.user.name = known.name().to_string_lossy().into_owned();
    let groups = uzers::get_user_groups(known.name(), known.primary_group_id());
    caller.is_admin |= groups
        .iter()
        .flatten()
        .any(|group| group.name() == admin_group);
    caller
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_and_the_daemons_own_user_are_administrators() {
        let own = rustix::process::geteuid().as_raw();
        assert!(look_up(0, "no-such-group").is_admin);
        assert!(look_up(own, "no-such-group").is_admin);
        assert_eq!(look_up(0, "no-such-group").user.name, "root");
        // Nobody's id is this one, in no group.
        let stranger = look_up(4_000_000_000, "no-such-group");
        assert_eq!(
            (stranger.user.name.as_str(), stranger.is_admin),
            ("4000000000", false)
        );
    }

    /// The user `daemon` is on every Linux, and has a group of that name.
    #[test]
    fn a_member_of_the_group_is_an_administrator() {
        let Some(daemon) = uzers::get_user_by_name("daemon") else {
            return;
        };
        let is_admin = |group| look_up(daemon.uid(), group).is_admin;
        assert!(is_admin("daemon") && !is_admin("no-such-group"));
    }
}
