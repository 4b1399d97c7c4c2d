//! Who may ask for what. Whoever reaches the socket sees the queue, as with `squeue`: which jobs
//! there are, whose they are, how far they are and what they wait for. What changes a job, and what
//! shows texts of its data (samples, data sets, its log), is for its owner and for administrators.
//!
//! An administrator is root, the daemon's own user, or a member of the group that r1d.toml names
//! (`listen.admin_group`). A job of an earlier release has no owner: it is the administrators'.

use r1d_ledger::User;
use r1d_proto::control::Request;
use r1d_proto::ids::JobId;

/// What a request needs of whoever sends it.
#[derive(Debug, PartialEq)]
pub(crate) enum Need<'a> {
    /// Nothing.
    Nothing,
    /// Only a name, which is recorded, or which decides what is meant.
    Name,
    /// Nothing; but texts of the job's data are left out of what others than its owner and the
    /// administrators get.
    Glance(&'a mut String),
    /// To be the owner of the job of this id or prefix, or an administrator.
    Job(&'a mut String),
    /// To be the owner of all jobs of these ids or prefixes, or an administrator.
    Jobs(&'a mut Vec<String>),
    /// To be an administrator.
    Administration,
}

/// What the request needs. There is no wildcard: a new request has to say.
pub(crate) fn need(request: &mut Request) -> Need<'_> {
    match request {
        Request::List | Request::Nodes => Need::Nothing,
        Request::Submit { .. } | Request::Plan { .. } | Request::Prune { .. } => Need::Name,
        Request::Remove { jobs } => Need::Jobs(jobs),
        Request::Status { job } | Request::Watch { job } => Need::Glance(job),
        Request::Why { .. } => Need::Nothing,
        Request::Cancel { job }
        | Request::Pause { job }
        | Request::Resume { job }
        | Request::Requeue { job }
        | Request::Reload { job, .. }
        | Request::Review { job, .. }
        | Request::DataSets { job }
        | Request::Samples { job, .. }
        | Request::Trace { job, .. }
        | Request::Logs { job, .. } => Need::Job(job),
        Request::Shutdown => Need::Administration,
    }
}

/// Who sends a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    pub user: User,
    pub is_admin: bool,
}

impl Caller {
    /// Whether a job of this owner is the caller's to change and to look into.
    pub(crate) fn owns(&self, owner: Option<&User>) -> bool {
        self.is_admin || owner.is_some_and(|owner| owner.uid == self.user.uid)
    }
}

/// Why a caller may not touch a job, and what to do.
pub(crate) fn not_yours(job: &JobId, owner: Option<&User>, admin_group: &str) -> String {
    let whom = format!("an administrator (root, or a member of the group {admin_group})");
    match owner {
        Some(owner) => format!("job {job} is {}'s: ask them, or {whom}", owner.name),
        None => {
            format!("job {job} was submitted to an earlier release and has no owner: ask {whom}")
        }
    }
}

/// Why a caller may not administer the daemon.
pub(crate) fn not_an_administrator(admin_group: &str) -> String {
    format!("only an administrator may do this: root, or a member of the group {admin_group}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use r1d_proto::control::SampleSort;

    fn user(uid: u32) -> User {
        User {
            uid,
            name: format!("user{uid}"),
        }
    }

    /// One request of each kind, and who may send it: everybody, the owner, or administrators.
    fn requests() -> Vec<(Request, &'static str)> {
        let job = || "k3v".to_string();
        let reload = Request::Reload {
            job: job(),
            plugin: "accuracy".into(),
            file: "/p.wasm".into(),
        };
        let submit = Request::Submit {
            job: "name = \"a\"".into(),
            priority: None,
            pins: Default::default(),
            no_reuse: false,
            hold: false,
        };
        let plan = Request::Plan {
            job: job(),
            pins: Default::default(),
        };
        let samples = Request::Samples {
            job: job(),
            stage: None,
            step: None,
            sort: SampleSort::Order,
            limit: 1,
        };
        let trace = Request::Trace {
            job: job(),
            stage: None,
            step: None,
        };
        let logs = Request::Logs {
            job: job(),
            follow: false,
            tail: None,
            since_s: None,
        };
        let prune = Request::Prune {
            older_than_s: None,
            keep_final: None,
            dry_run: false,
        };
        let review = Request::Review {
            job: job(),
            stage: "s".into(),
            file: None,
        };
        vec![
            (submit, "everybody"),
            (plan, "everybody"),
            (Request::List, "everybody"),
            (Request::Nodes, "everybody"),
            (Request::Status { job: job() }, "everybody"),
            (Request::Watch { job: job() }, "everybody"),
            (Request::Why { job: job() }, "everybody"),
            (prune, "everybody"),
            (Request::Remove { jobs: vec![job()] }, "owner"),
            (Request::Cancel { job: job() }, "owner"),
            (Request::Pause { job: job() }, "owner"),
            (Request::Resume { job: job() }, "owner"),
            (Request::Requeue { job: job() }, "owner"),
            (Request::DataSets { job: job() }, "owner"),
            (reload, "owner"),
            (samples, "owner"),
            (trace, "owner"),
            (logs, "owner"),
            (review, "owner"),
            (Request::Shutdown, "administrators"),
        ]
    }

    /// Whether the caller may send the request about a job of this owner, as the socket decides.
    fn may(caller: &Caller, owner: Option<&User>, request: &mut Request) -> bool {
        match need(request) {
            Need::Nothing | Need::Name | Need::Glance(_) => true,
            Need::Job(_) | Need::Jobs(_) => caller.owns(owner),
            Need::Administration => caller.is_admin,
        }
    }

    #[test]
    fn each_request_is_for_whom_it_is_meant() {
        let kinds: Vec<&str> = requests().iter().map(|(_, who)| *who).collect();
        assert_eq!(kinds.len(), 20, "a new request belongs into this table");
        for (mut request, who) in requests() {
            for (uid, is_admin) in [(0, true), (1000, false), (1001, false), (1002, true)] {
                for owner in [None, Some(user(1000)), Some(user(1001))] {
                    let caller = Caller {
                        user: user(uid),
                        is_admin,
                    };
                    let expected = match who {
                        "everybody" => true,
                        "owner" => is_admin || owner == Some(user(uid)),
                        _ => is_admin,
                    };
                    assert_eq!(
                        may(&caller, owner.as_ref(), &mut request),
                        expected,
                        "{request:?} of {uid} about a job of {owner:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_refusal_says_whose_job_it_is() {
        let job = JobId("k3v".into());
        assert_eq!(
            not_yours(&job, Some(&user(7)), "r1d-admin"),
            "job k3v is user7's: ask them, or an administrator (root, or a member of the group \
             r1d-admin)"
        );
        assert_eq!(
            not_yours(&job, None, "r1d-admin"),
            "job k3v was submitted to an earlier release and has no owner: ask an administrator \
             (root, or a member of the group r1d-admin)"
        );
    }
}
