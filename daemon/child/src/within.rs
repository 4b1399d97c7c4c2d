//! One exchange with a child, for which it has one time, in however many parts it takes and gives.

use r1d_proto::world::Clock;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Interval at which one that waits looks at the time, and whether the outcome is still wanted.
const LOOK_MS: u64 = 50;

/// The daemon's end of a child's socket pair, until a time.
pub struct Within<'a> {
    stream: &'a UnixStream,
    clock: &'a dyn Clock,
    ends: Duration,
    wanted: &'a dyn Fn() -> bool,
}

impl<'a> Within<'a> {
    /// An exchange that ends when the `clock` says `ends`, and before that if the outcome is not
    /// `wanted` any more. From now on the stream does not block by itself.
    pub fn new(
        stream: &'a UnixStream,
        (clock, ends): (&'a dyn Clock, Duration),
        wanted: &'a dyn Fn() -> bool,
    ) -> io::Result<Within<'a>> {
        stream.set_nonblocking(true)?;
        Ok(Within {
            stream,
            clock,
            ends,
            wanted,
        })
    }

    /// Waits until the child has something, or takes something.
    fn ready(&self, what: PollFlags) -> io::Result<()> {
        let look = Timespec {
            tv_sec: 0,
            tv_nsec: (LOOK_MS * 1_000_000) as _,
        };
        loop {
            if !(self.wanted)() {
                return Err(ErrorKind::ConnectionAborted.into());
            }
            if self.clock.now() >= self.ends {
                return Err(ErrorKind::TimedOut.into());
            }
            match poll(&mut [PollFd::new(self.stream, what)], Some(&look)) {
                // Nothing has come yet, or a signal interrupted the wait.
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Does what does not block, again after each wait.
    fn wait_for<T>(
        &self,
        what: PollFlags,
        mut part: impl FnMut(&UnixStream) -> io::Result<T>,
    ) -> io::Result<T> {
        loop {
            self.ready(what)?;
            match part(self.stream) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                done => return done,
            }
        }
    }
}

impl Read for Within<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.wait_for(PollFlags::IN, |mut stream| stream.read(bytes))
    }
}

impl Write for Within<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.wait_for(PollFlags::OUT, |mut stream| stream.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    /// A clock by which every look at it takes a second.
    #[derive(Default)]
    struct Looks(AtomicU64);

    impl Clock for Looks {
        fn now(&self) -> Duration {
            Duration::from_secs(self.0.fetch_add(1, Ordering::Relaxed))
        }

        fn unix(&self) -> Duration {
            self.now()
        }
    }

    /// A stream that takes a part of what it is sent, and then no more, has no time anew for the
    /// rest.
    #[test]
    fn what_is_taken_in_parts_has_one_time() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let clock = Looks::default();
        let ends = Duration::from_secs(10);
        let mut within = Within::new(&ours, (&clock, ends), &|| true).unwrap();
        let sent = std::thread::scope(|scope| {
            scope.spawn(|| theirs.read_exact(&mut vec![0; 1 << 16]).unwrap());
            within.write_all(&vec![1; 16 << 20])
        });
        assert_eq!(sent.unwrap_err().kind(), ErrorKind::TimedOut);
        // Nor has the answer.
        let answered = within.read(&mut [0]);
        assert_eq!(answered.unwrap_err().kind(), ErrorKind::TimedOut);
        assert_eq!(clock.0.load(Ordering::Relaxed), ends.as_secs() + 2);
    }

    #[test]
    fn who_leaves_waits_neither_to_be_heard_nor_for_an_answer() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let (clock, is_wanted) = (Looks::default(), AtomicBool::new(true));
        // It leaves while it waits.
        let wanted = || is_wanted.swap(false, Ordering::Relaxed);
        let ends = Duration::from_secs(1_000);
        let mut within = Within::new(&ours, (&clock, ends), &wanted).unwrap();
        let answered = within.read(&mut [0]).unwrap_err().kind();
        assert_eq!(answered, ErrorKind::ConnectionAborted);
        let sent = within.write_all(&[1]).unwrap_err().kind();
        assert_eq!(sent, ErrorKind::ConnectionAborted);
    }

    #[test]
    fn both_directions_pass_whole() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let clock = Looks::default();
        let ends = Duration::from_secs(1_000_000);
        let mut within = Within::new(&ours, (&clock, ends), &|| true).unwrap();
        let sent: Vec<u8> = (0..4 << 20).map(|byte: u32| byte as u8).collect();
        let back = std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut bytes = vec![0; 4 << 20];
                (&theirs).read_exact(&mut bytes).unwrap();
                (&theirs).write_all(&bytes).unwrap();
            });
            within.write_all(&sent).unwrap();
            let mut back = vec![0; 4 << 20];
            within.read_exact(&mut back).unwrap();
            back
        });
        assert!(back == sent);
    }
}
