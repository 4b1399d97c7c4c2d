//! A stand-in for NCCL between threads, for tensors on the host: calls are queued until their group
//! ends, carried out by a thread behind it, and can be aborted, as in the library.

use super::api::{Api, Comm, Config, ID_BYTES, IN_PROGRESS, SUCCESS, Status, Stream, UniqueId};
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ffi::{c_char, c_int, c_void};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

/// `ncclInvalidUsage`, which ends of calls that do not fit get.
pub(super) const INVALID_USAGE: Status = 5;
/// `ncclRemoteError`.
pub(super) const REMOTE_ERROR: Status = 6;

/// The library, whose version is 2.28.9.
pub(super) static API: Api = Api {
    get_version,
    get_unique_id,
    get_error_string,
    get_last_error,
    comm_init,
    comm_get_async_error,
    comm_finalize,
    comm_destroy,
    comm_abort,
    group_start,
    group_end,
    send,
    recv,
    all_gather,
    broadcast,
};

/// What the ranks of a group have in common.
#[derive(Default)]
pub(super) struct FakeGroup {
    mail: Mutex<Mail>,
    came: Condvar,
}

#[derive(Default)]
struct Mail {
    joined: usize,
    /// What was sent, by sender and receiver.
    parts: HashMap<(c_int, c_int), VecDeque<Vec<u8>>>,
    /// How the ranks' communicators ended.
    ends: BTreeMap<c_int, &'static str>,
}

impl FakeGroup {
    pub(super) fn ends(&self) -> BTreeMap<c_int, &'static str> {
        self.mail.lock().unwrap().ends.clone()
    }
}

/// One rank's communicator.
pub(super) struct FakeComm {
    pub(super) hub: Arc<FakeGroup>,
    rank: c_int,
    size: c_int,
    is_aborted: AtomicBool,
    /// The state of the call that is carried out.
    pub(super) state: AtomicI32,
    at_work: Mutex<Option<JoinHandle<()>>>,
}

/// # Safety
/// The communicator lives.
pub(super) unsafe fn of(comm: Comm) -> &'static FakeComm {
    unsafe { &*comm.cast_const().cast() }
}

/// A part that is sent or received.
enum Part {
    Sent {
        bytes: Vec<u8>,
        peer: c_int,
    },
    Received {
        to: usize,
        length: usize,
        peer: c_int,
    },
}

struct Queued {
    comm: usize,
    part: Part,
}

thread_local! {
    /// The calls of the group that was begun on this thread.
    static GROUP: RefCell<Option<Vec<Queued>>> = const { RefCell::new(None) };
}

static IDS: AtomicU64 = AtomicU64::new(0);
static HUBS: Mutex<BTreeMap<u64, Arc<FakeGroup>>> = Mutex::new(BTreeMap::new());

unsafe extern "C" fn get_version(version: *mut c_int) -> Status {
    unsafe { *version = 22_809 };
    SUCCESS
}

unsafe extern "C" fn get_unique_id(id: *mut UniqueId) -> Status {
    let number = IDS.fetch_add(1, Ordering::SeqCst);
    let mut bytes = [7; ID_BYTES];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    unsafe { *id = UniqueId(bytes) };
    SUCCESS
}

unsafe extern "C" fn get_error_string(status: Status) -> *const c_char {
    match status {
        INVALID_USAGE => c"invalid usage",
        REMOTE_ERROR => c"remote process exited or there was a network error",
        _ => c"unknown result code",
    }
    .as_ptr()
}

unsafe extern "C" fn get_last_error(_: Comm) -> *const c_char {
    c"the last line of the log\n".as_ptr()
}

unsafe extern "C" fn comm_init(
    comm: *mut Comm,
    size: c_int,
    id: UniqueId,
    rank: c_int,
    config: *mut Config,
) -> Status {
    assert!(!config.is_null());
    let number = u64::from_le_bytes(id.0[..8].try_into().unwrap());
    assert_eq!(id.0[8..], [7; ID_BYTES - 8]);
    let hub = Arc::clone(HUBS.lock().unwrap().entry(number).or_default());
    hub.mail.lock().unwrap().joined += 1;
    let made = Box::new(FakeComm {
        hub,
        rank,
        size,
        is_aborted: AtomicBool::new(false),
        state: AtomicI32::new(SUCCESS),
        at_work: Mutex::new(None),
    });
    unsafe { *comm = Box::into_raw(made).cast() };
    IN_PROGRESS
}

unsafe extern "C" fn comm_get_async_error(comm: Comm, state: *mut Status) -> Status {
    let own = unsafe { of(comm) };
    let is_connected = own.hub.mail.lock().unwrap().joined >= own.size as usize;
    let now = match own.state.load(Ordering::SeqCst) {
        SUCCESS if !is_connected => IN_PROGRESS,
        now => now,
    };
    unsafe { *state = now };
    SUCCESS
}

unsafe extern "C" fn comm_finalize(comm: Comm) -> Status {
    match unsafe { of(comm) }.state.load(Ordering::SeqCst) {
        // What is under way cannot be ended in good order.
        IN_PROGRESS => INVALID_USAGE,
        state => state,
    }
}

unsafe fn end(comm: Comm, how: &'static str) -> Status {
    let own = unsafe { Box::from_raw(comm.cast::<FakeComm>()) };
    own.is_aborted.store(true, Ordering::SeqCst);
    let mut mail = own.hub.mail.lock().unwrap();
    mail.ends.insert(own.rank, how);
    drop(mail);
    own.hub.came.notify_all();
    if let Some(thread) = own.at_work.lock().unwrap().take() {
        thread.join().unwrap();
    }
    SUCCESS
}

unsafe extern "C" fn comm_destroy(comm: Comm) -> Status {
    unsafe { end(comm, "destroyed") }
}

unsafe extern "C" fn comm_abort(comm: Comm) -> Status {
    unsafe { end(comm, "aborted") }
}

unsafe extern "C" fn group_start() -> Status {
    GROUP.with_borrow_mut(|group| assert!(group.replace(Vec::new()).is_none()));
    SUCCESS
}

unsafe extern "C" fn group_end() -> Status {
    let queued = GROUP.take().expect("a group was begun");
    let Some(comm) = queued.first().map(|call| call.comm) else {
        return SUCCESS;
    };
    let own = unsafe { of(comm as Comm) };
    // A call begins when the one before is done.
    if own.state.swap(IN_PROGRESS, Ordering::SeqCst) != SUCCESS {
        return INVALID_USAGE;
    }
    let work = move || {
        let own = unsafe { of(comm as Comm) };
        let state = carry_out(own, queued);
        let _ = own
            .state
            .compare_exchange(IN_PROGRESS, state, Ordering::SeqCst, Ordering::SeqCst);
    };
    let before = own
        .at_work
        .lock()
        .unwrap()
        .replace(std::thread::spawn(work));
    if let Some(before) = before {
        before.join().unwrap();
    }
    IN_PROGRESS
}

/// Sends all parts, and waits for those that are received.
fn carry_out(own: &FakeComm, queued: Vec<Queued>) -> Status {
    let mut mail = own.hub.mail.lock().unwrap();
    let mut awaited = Vec::new();
    for Queued { part, .. } in queued {
        match part {
            Part::Sent { bytes, peer } => {
                mail.parts
                    .entry((own.rank, peer))
                    .or_default()
                    .push_back(bytes);
            }
            Part::Received { to, length, peer } => awaited.push((to, length, peer)),
        }
    }
    own.hub.came.notify_all();
    for (to, length, peer) in awaited {
        let came = loop {
            if own.is_aborted.load(Ordering::SeqCst) {
                return REMOTE_ERROR;
            }
            let parts = mail.parts.get_mut(&(peer, own.rank));
            if let Some(came) = parts.and_then(VecDeque::pop_front) {
                break came;
            }
            mail = own.hub.came.wait(mail).unwrap();
        };
        if came.len() != length {
            return INVALID_USAGE;
        }
        unsafe { std::ptr::copy_nonoverlapping(came.as_ptr(), to as *mut u8, length) };
    }
    SUCCESS
}

fn queue(comm: Comm, part: Part) -> Status {
    GROUP.with_borrow_mut(|group| {
        let comm = comm as usize;
        group
            .as_mut()
            .expect("calls are in a group")
            .push(Queued { comm, part });
    });
    SUCCESS
}

unsafe extern "C" fn send(
    from: *const c_void,
    length: usize,
    kind: c_int,
    peer: c_int,
    comm: Comm,
    _: Stream,
) -> Status {
    assert_eq!(kind, 1);
    let bytes = unsafe { std::slice::from_raw_parts(from.cast::<u8>(), length) }.to_vec();
    queue(comm, Part::Sent { bytes, peer })
}

unsafe extern "C" fn recv(
    to: *mut c_void,
    length: usize,
    kind: c_int,
    peer: c_int,
    comm: Comm,
    _: Stream,
) -> Status {
    assert_eq!(kind, 1);
    let to = to as usize;
    queue(comm, Part::Received { to, length, peer })
}

unsafe extern "C" fn all_gather(
    from: *const c_void,
    to: *mut c_void,
    each: usize,
    kind: c_int,
    comm: Comm,
    stream: Stream,
) -> Status {
    for peer in 0..unsafe { of(comm) }.size {
        unsafe {
            send(from, each, kind, peer, comm, stream);
            recv(
                to.byte_add(peer as usize * each),
                each,
                kind,
                peer,
                comm,
                stream,
            );
        }
    }
    SUCCESS
}

unsafe extern "C" fn broadcast(
    from: *const c_void,
    to: *mut c_void,
    length: usize,
    kind: c_int,
    root: c_int,
    comm: Comm,
    stream: Stream,
) -> Status {
    let own = unsafe { of(comm) };
    if own.rank == root {
        for peer in 0..own.size {
            unsafe { send(from, length, kind, peer, comm, stream) };
        }
    }
    unsafe { recv(to, length, kind, root, comm, stream) }
}
