//! What the newest commands did, by their ids: a command that is sent again, because its answer was
//! lost, gets the answer of the first and changes nothing.
//!
//! Every sender has a session, a number higher than those of all sessions before
//! ([`State::next_session`](crate::State::next_session)), and numbers its commands from 1. It may
//! have at most [`ANSWERS_MAX`] commands under way. The newest [`ANSWERS_MAX`] numbers of a session
//! are remembered, in the newest [`SESSIONS_MAX`] sessions. Whatever is older was answered, or its
//! sender is long gone: it is refused, not carried out a second time.
//!
//! A refused command changed nothing, so nothing is remembered of it: sent again, it is judged
//! anew.

use crate::command::{Command, CommandId, Effect, Rejected};
use rpds::RedBlackTreeMapSync;
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// Most commands of a session whose answers are remembered.
pub const ANSWERS_MAX: u64 = 256;
/// Most sessions whose answers are remembered.
pub const SESSIONS_MAX: usize = 16;
/// Bytes that are kept of a command's hash.
const DIGEST_BYTES: usize = 16;

/// What tells commands apart: the beginning of the SHA-256 of one.
pub(crate) type CommandDigest = [u8; DIGEST_BYTES];

/// Returns what tells the command from others. A release may write commands in another way than the
/// one before: a command is not sent again across an upgrade.
pub(crate) fn digest(command: &Command) -> CommandDigest {
    // Commands have no part that cannot be written.
    let bytes = postcard::to_allocvec(command).unwrap_or_default();
    let mut digest = [0; DIGEST_BYTES];
    let whole = Sha256::digest(bytes);
    digest
        .iter_mut()
        .zip(whole)
        .for_each(|(byte, of)| *byte = of);
    digest
}

/// What a command did.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct KnownAnswer {
    pub(crate) digest: CommandDigest,
    /// `None`: a later release wrote it, and this one does not know it.
    pub(crate) effect: Option<Effect>,
}

/// The answers that are remembered. A copy shares them.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct KnownAnswers {
    by_id: RedBlackTreeMapSync<CommandId, Arc<KnownAnswer>>,
    /// The highest number of each session.
    newest: RedBlackTreeMapSync<u64, u64>,
    /// The highest session of which nothing is remembered any more; 0: none.
    forgotten: u64,
}

/// What a remembered answer changes on disk.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct AnswersChange {
    pub(crate) new: Option<(CommandId, Arc<KnownAnswer>)>,
    pub(crate) gone: Vec<CommandId>,
    /// The highest forgotten session, if that is another one now.
    pub(crate) forgotten: Option<u64>,
}

impl KnownAnswers {
    pub(crate) fn from_rows(
        rows: impl IntoIterator<Item = (CommandId, KnownAnswer)>,
        forgotten: u64,
    ) -> KnownAnswers {
        let mut answers = KnownAnswers {
            forgotten,
            ..KnownAnswers::default()
        };
        for (id, answered) in rows {
            answers.insert(id, Arc::new(answered));
        }
        answers
    }

    fn insert(&mut self, id: CommandId, answered: Arc<KnownAnswer>) {
        let newest = self.newest.get(&id.session).copied().unwrap_or(0);
        self.newest.insert_mut(id.session, newest.max(id.number));
        self.by_id.insert_mut(id, answered);
    }

    /// Finds what a command did that was carried out under this id; `None` if none was. Another
    /// command under an id that is taken is refused, and so is an id too old to be remembered.
    pub(crate) fn find(
        &self,
        id: CommandId,
        digest: &CommandDigest,
    ) -> Result<Option<Effect>, Rejected> {
        if let Some(known) = self.by_id.get(&id) {
            if known.digest != *digest {
                return Err(Rejected::IdTaken { id });
            }
            let effect = known.effect.clone();
            return effect.map(Some).ok_or(Rejected::IdForgotten { id });
        }
        let is_forgotten = match self.newest.get(&id.session) {
            Some(newest) => id.number.saturating_add(ANSWERS_MAX) <= *newest,
            None => id.session <= self.forgotten || self.is_older_than_all(id.session),
        };
        if is_forgotten || id.number == 0 {
            return Err(Rejected::IdForgotten { id });
        }
        Ok(None)
    }

    /// Whether a session that begins now would be the first to be forgotten.
    fn is_older_than_all(&self, session: u64) -> bool {
        let oldest = self.newest.first().map(|(oldest, _)| *oldest);
        self.newest.size() >= SESSIONS_MAX && oldest.is_some_and(|oldest| session < oldest)
    }

    /// Remembers what the command of a new id did, and forgets what is too old then.
    pub(crate) fn remember(&mut self, id: CommandId, answered: KnownAnswer) -> AnswersChange {
        let answered = Arc::new(answered);
        self.insert(id, answered.clone());
        let newest = self.newest.get(&id.session).copied().unwrap_or(id.number);
        let first = CommandId {
            session: id.session,
            number: 0,
        };
        let last = CommandId {
            number: newest.saturating_sub(ANSWERS_MAX),
            ..first
        };
        let mut gone = self.ids(first, last);
        let mut forgotten = None;
        let oldest = self.newest.first().map(|(oldest, _)| *oldest);
        if let Some(session) = oldest.filter(|_| self.newest.size() > SESSIONS_MAX) {
            let (first, last) = (
                CommandId { session, number: 0 },
                CommandId {
                    session,
                    number: u64::MAX,
                },
            );
            gone.extend(self.ids(first, last));
            self.newest.remove_mut(&session);
            self.forgotten = self.forgotten.max(session);
            forgotten = Some(self.forgotten);
        }
        for id in &gone {
            self.by_id.remove_mut(id);
        }
        AnswersChange {
            new: Some((id, answered)),
            gone,
            forgotten,
        }
    }

    fn ids(&self, first: CommandId, last: CommandId) -> Vec<CommandId> {
        self.by_id.range(first..=last).map(|(id, _)| *id).collect()
    }

    /// The highest session that is known.
    pub(crate) fn newest_session(&self) -> u64 {
        let newest = self.newest.last().map_or(0, |(session, _)| *session);
        newest.max(self.forgotten)
    }
}
