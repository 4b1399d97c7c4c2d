//! `r1ctl logs`: a job's log as a stream of parts, each with many lines.

use super::{ControlService, send};
use crate::job_log;
use crate::log_tail::{self, Tail};
use crate::tasks;
use r1d_proto::control::Response;
use r1d_proto::frame::FrameError;
use r1d_proto::ids::JobId;
use r1d_proto::user_file;
use r1d_store::JobLayout;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::time::Duration;
use tokio::net::unix::OwnedWriteHalf;

/// Time between two reads of a followed log.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(200);
/// Most bytes of a log that are read at a time.
const LOG_CHUNK_MAX_BYTES: u64 = 1 << 20;

impl ControlService {
    pub(super) async fn logs(
        &self,
        job: &JobId,
        follow: bool,
        tail: Tail,
        writer: &mut OwnedWriteHalf,
    ) -> Result<(), FrameError> {
        let path = JobLayout::of(&self.views.state_dir, job).log();
        let mut offset = first(path.clone(), tail).await;
        loop {
            // Look at the state before reading: all that was written before the end is then read.
            let ended = self
                .views
                .ledger
                .job(job)
                .is_none_or(|record| record.state().is_final());
            let read = read_from(path.clone(), offset).await;
            let (lines, length) = job_log::parse(&read);
            if !lines.is_empty() {
                send(writer, &Response::Lines(lines)).await?;
            }
            offset += length as u64;
            if length == 0 && (ended || !follow) {
                return send(writer, &Response::End).await;
            }
            if length == 0 {
                tokio::time::sleep(FOLLOW_INTERVAL).await;
            }
        }
    }
}

/// The offset of the first wanted line; 0 if the file cannot be read.
async fn first(path: PathBuf, tail: Tail) -> u64 {
    let found = tasks::blocking(move || log_tail::begin(&mut user_file::open(&path)?, tail));
    found.await.ok().and_then(Result::ok).unwrap_or(0)
}

/// Reads the next part of a file; empty if the file cannot be read.
async fn read_from(path: PathBuf, offset: u64) -> Vec<u8> {
    let read = tasks::blocking(move || {
        let mut bytes = Vec::new();
        let mut file = user_file::open(&path)?;
        file.seek(SeekFrom::Start(offset))?;
        file.take(LOG_CHUNK_MAX_BYTES).read_to_end(&mut bytes)?;
        Ok::<_, io::Error>(bytes)
    });
    read.await.ok().and_then(Result::ok).unwrap_or_default()
}
