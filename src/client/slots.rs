//! The pending requests of one link: a slab of slots, found by the id that travels in the frame.
//!
//! Invariants: an id names its slot and that slot's generation, so that an answer that comes after its caller gave up
//! never reaches the slot's next tenant; a slot is free only once its caller took the outcome or was dropped; `occupied`
//! counts slots that are not free. No clock and no lock here: times are the mesh's milliseconds, and the connection that
//! owns the slots guards them.

use bytes::Bytes;
use meshwork_core::{
    time::Wall,
    value::Version,
    wire::{Status, Worth, control::ControlReply},
};
use std::{
    sync::Arc,
    task::{Context, Poll, Waker},
};

/// Names a request on its link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket(pub(crate) u64);

impl Ticket {
    fn new(generation: u32, index: usize) -> Self {
        Self(u64::from(generation) << 32 | index as u64)
    }

    fn index(self) -> usize {
        (self.0 & 0xffff_ffff) as usize
    }

    fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// What a node said.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: Status,
    pub(crate) maybe_applied: bool,
    pub(crate) worth: Worth,
    pub(crate) body: Body,
}

/// What came with it.
#[derive(Debug)]
pub(crate) enum Body {
    Empty,
    Value { version: Version, expires_at: Option<Wall>, value: Bytes },
    Written { version: Version },
    Text(Box<str>),
    Control(Box<ControlReply>),
}

/// Why there is no answer on this link.
#[derive(Clone, Debug)]
pub(crate) enum Failure {
    /// The link is up now: hand the request over again.
    LinkUp,
    /// The attempt's time is over.
    Late { sent: bool },
    /// The link was lost, or could not be made.
    Lost { sent: bool, why: Arc<crate::Error> },
    /// The node does not know this message.
    Unsupported,
}

/// How an attempt ended.
pub(crate) type Outcome = Result<Answer, Failure>;

#[derive(Debug)]
enum State {
    Free,
    /// Not encoded: there is no link yet.
    Parked(Waker),
    /// In the send buffer, or on its way.
    Waiting(Waker),
    Done(Outcome),
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    /// The batch of the send buffer that it was encoded into.
    batch: u32,
    state: State,
}

/// Never due.
const NEVER: u64 = u64::MAX;

/// The slab.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    slots: Vec<Slot>,
    /// Parallel to `slots`, apart because the sweep reads nothing else: milliseconds, `NEVER` when nothing is awaited.
    due: Vec<u64>,
    free: Vec<u32>,
}

impl Slots {
    /// Slots that are not free.
    pub(crate) fn occupied(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    fn insert(&mut self, state: State, batch: u32, due: u64) -> Ticket {
        let index = match self.free.pop() {
            Some(index) => index as usize,
            None => {
                self.slots.push(Slot { generation: 0, batch: 0, state: State::Free });
                self.due.push(NEVER);
                self.slots.len() - 1
            }
        };
        let slot = &mut self.slots[index];
        (slot.state, slot.batch) = (state, batch);
        self.due[index] = due;
        Ticket::new(slot.generation, index)
    }

    /// A request that waits for the link.
    pub(crate) fn park(&mut self, waker: Waker, due: u64) -> Ticket {
        self.insert(State::Parked(waker), 0, due)
    }

    /// A request that is about to be encoded under the returned ticket.
    pub(crate) fn wait(&mut self, waker: Waker, batch: u32, due: u64) -> Ticket {
        self.insert(State::Waiting(waker), batch, due)
    }

    /// The request's outcome; frees the slot when it is there. The ticket must not have been used up.
    pub(crate) fn poll(&mut self, ticket: Ticket, context: &mut Context<'_>) -> Poll<Outcome> {
        let index = ticket.index();
        let slot = &mut self.slots[index];
        assert_eq!(slot.generation, ticket.generation(), "a ticket is good until its outcome is taken");
        match &mut slot.state {
            State::Parked(waker) | State::Waiting(waker) => {
                waker.clone_from(context.waker());
                Poll::Pending
            }
            State::Done(_) => {
                let State::Done(outcome) = std::mem::replace(&mut slot.state, State::Free) else {
                    unreachable!("matched above")
                };
                slot.generation = slot.generation.wrapping_add(1);
                self.free.push(index as u32);
                Poll::Ready(outcome)
            }
            State::Free => unreachable!("a ticket's slot is not free before its outcome is taken"),
        }
    }

    /// Nobody waits any more: the slot is free at once, and a later answer finds nobody.
    pub(crate) fn abandon(&mut self, ticket: Ticket) {
        let index = ticket.index();
        let slot = &mut self.slots[index];
        assert_eq!(slot.generation, ticket.generation(), "a ticket is good until its outcome is taken");
        slot.generation = slot.generation.wrapping_add(1);
        slot.state = State::Free;
        self.due[index] = NEVER;
        self.free.push(index as u32);
    }

    /// Whether somebody still waits for this answer.
    pub(crate) fn awaits(&self, ticket: Ticket) -> bool {
        self.slots
            .get(ticket.index())
            .is_some_and(|slot| slot.generation == ticket.generation() && matches!(slot.state, State::Waiting(_)))
    }

    /// The answer came. Nothing happens when nobody waits for it.
    pub(crate) fn complete(&mut self, ticket: Ticket, outcome: Outcome, wakers: &mut Vec<Waker>) {
        if !self.awaits(ticket) {
            return;
        }
        self.finish(ticket.index(), outcome, wakers);
    }

    fn finish(&mut self, index: usize, outcome: Outcome, wakers: &mut Vec<Waker>) {
        self.due[index] = NEVER;
        match std::mem::replace(&mut self.slots[index].state, State::Done(outcome)) {
            State::Parked(waker) | State::Waiting(waker) => wakers.push(waker),
            State::Free | State::Done(_) => unreachable!("only what is awaited is finished"),
        }
    }

    fn finish_where(&mut self, wakers: &mut Vec<Waker>, outcome: impl Fn(&Slot, u64) -> Option<Outcome>) {
        for index in 0..self.slots.len() {
            let slot = &self.slots[index];
            if !matches!(slot.state, State::Parked(_) | State::Waiting(_)) {
                continue;
            }
            if let Some(outcome) = outcome(slot, self.due[index]) {
                self.finish(index, outcome, wakers);
            }
        }
    }

    /// The link is up: whoever waited for it hands its request over again.
    pub(crate) fn release_parked(&mut self, wakers: &mut Vec<Waker>) {
        self.finish_where(wakers, |slot, _| matches!(slot.state, State::Parked(_)).then_some(Err(Failure::LinkUp)));
    }

    /// The link is gone. What was encoded into `batch` or later never left.
    pub(crate) fn lose(&mut self, batch: u32, why: &Arc<crate::Error>, wakers: &mut Vec<Waker>) {
        self.finish_where(wakers, |slot, _| {
            let sent = matches!(slot.state, State::Waiting(_)) && slot.batch != batch;
            Some(Err(Failure::Lost { sent, why: why.clone() }))
        });
    }

    /// Ends the attempts that were due by `now`; whether there were any.
    pub(crate) fn sweep(&mut self, now: u64, wakers: &mut Vec<Waker>) -> bool {
        if !self.due.iter().any(|due| *due <= now) {
            return false;
        }
        self.finish_where(wakers, |slot, due| {
            (due <= now).then(|| Err(Failure::Late { sent: matches!(slot.state, State::Waiting(_)) }))
        });
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: Status) -> Outcome {
        Ok(Answer { status, maybe_applied: false, worth: Worth::default(), body: Body::Empty })
    }

    fn poll(slots: &mut Slots, ticket: Ticket) -> Poll<Outcome> {
        slots.poll(ticket, &mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn an_answer_that_comes_late_does_not_reach_the_next_tenant_of_the_slot() {
        let (mut slots, mut wakers) = (Slots::default(), Vec::new());
        let first = slots.wait(Waker::noop().clone(), 0, 100);
        slots.abandon(first);
        let second = slots.wait(Waker::noop().clone(), 0, 100);
        assert_eq!(second.index(), first.index(), "the slot is used again");
        slots.complete(first, answer(Status::Ok), &mut wakers);
        assert!(poll(&mut slots, second).is_pending());
        slots.complete(second, answer(Status::NotFound), &mut wakers);
        assert_eq!(wakers.len(), 1);
        let Poll::Ready(Ok(answer)) = poll(&mut slots, second) else { panic!("it was answered") };
        assert_eq!(answer.status, Status::NotFound);
        assert_eq!(slots.occupied(), 0);
    }

    #[test]
    fn a_hostile_id_finds_nobody() {
        let (mut slots, mut wakers) = (Slots::default(), Vec::new());
        for id in [0, 1, u64::MAX, 1 << 32] {
            slots.complete(Ticket(id), answer(Status::Ok), &mut wakers);
        }
        assert!(wakers.is_empty());
    }

    #[test]
    fn only_what_left_the_buffer_counts_as_sent_when_a_link_is_lost() {
        let (mut slots, mut wakers) = (Slots::default(), Vec::new());
        let parked = slots.park(Waker::noop().clone(), 100);
        let written = slots.wait(Waker::noop().clone(), 0, 100);
        let buffered = slots.wait(Waker::noop().clone(), 1, 100);
        slots.lose(1, &Arc::new(crate::Error::new(crate::ErrorKind::Connect, "gone")), &mut wakers);
        for (ticket, expected) in [(parked, false), (written, true), (buffered, false)] {
            let Poll::Ready(Err(Failure::Lost { sent, .. })) = poll(&mut slots, ticket) else { panic!("it was lost") };
            assert_eq!(sent, expected);
        }
    }

    #[test]
    fn attempts_end_when_they_are_due_and_not_before() {
        let (mut slots, mut wakers) = (Slots::default(), Vec::new());
        let soon = slots.wait(Waker::noop().clone(), 0, 10);
        let later = slots.wait(Waker::noop().clone(), 0, 20);
        assert!(!slots.sweep(9, &mut wakers));
        assert!(slots.sweep(10, &mut wakers));
        assert!(matches!(poll(&mut slots, soon), Poll::Ready(Err(Failure::Late { sent: true }))));
        assert!(poll(&mut slots, later).is_pending());
    }
}
