//! Commands that wait for the disk together: one sync makes a whole group of them durable.
//!
//! Who has a command adds it here and then waits for the file. Whoever gets the file takes all
//! commands that have come until then, writes them in one transaction and answers them; the others
//! of that group find their answers when they get the file in their turn. No thread is needed, and
//! a command that comes alone waits for nobody. A group has one command of each job: what a command
//! does to its job's metrics depends on what is durable.

use crate::command::{Command, CommandId};
use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

/// Commands that nobody has written yet, with places for their answers. It is as long as there are
/// threads that wait.
pub(crate) struct Group<A>(Mutex<Vec<Member<A>>>);

/// A command that was added to the group.
pub(crate) struct Member<A> {
    /// `None`: the command is never sent again.
    pub(crate) id: Option<CommandId>,
    pub(crate) command: Command,
    place: Place<A>,
}

/// The place of a command's answer.
pub(crate) struct Place<A>(Arc<Mutex<Option<A>>>);

impl<A> Group<A> {
    pub(crate) fn new() -> Group<A> {
        Group(Mutex::new(Vec::new()))
    }

    /// Adds a command to those that the next writer takes.
    pub(crate) fn add(&self, id: Option<CommandId>, command: Command) -> Place<A> {
        let answer = Arc::new(Mutex::new(None));
        let place = Place(answer.clone());
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.push(Member { id, command, place });
        Place(answer)
    }

    /// Number of commands that nobody has taken yet.
    pub(crate) fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Takes the commands that have come so far, in the order in which they came; of each job only
    /// the first. Only who has the file may call it.
    pub(crate) fn take(&self) -> Vec<Member<A>> {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut jobs = HashSet::new();
        let is_first = |member: &mut Member<A>| jobs.insert(member.command.job().clone());
        waiting.extract_if(.., is_first).collect()
    }
}

impl<A> Member<A> {
    pub(crate) fn answer(self, answer: A) {
        *self.place.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
    }
}

impl<A> Place<A> {
    /// The answer, if the command's group was written. `None` to one who has the file means that
    /// the command waits still, or that its writer panicked.
    pub(crate) fn take(&self) -> Option<A> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
