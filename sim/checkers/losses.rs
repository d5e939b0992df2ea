//! Which acknowledged writes may be gone because memories were lost: what S1, S2 and S14 do not hold against a cluster.
//!
//! Who lost its memory is Ready again once it compared itself with enough others; so a write is lost only when as many
//! machines as acknowledged it were without their memory at one time. The history tells when a process started, and when it
//! was Ready as a whole, or a newcomer's partitions had been moved to it (a copy that warms because a layout brought it lost
//! nothing: its node opens no loss). An identity that runs twice may have acknowledged in the process that gives way: as good
//! as one memory lost, and worse, since the other process answers without having warmed: where the two quorums share but one
//! owner, it may be that one (seed 60226, R = 1, W = N). A layout of fewer members has fewer copies of what was written
//! before it: who left gave its own away (seed b21c6, three acknowledged and two held it afterwards).

use crate::history::{Event, History, Op};
use std::collections::BTreeMap;

/// When a process started on a machine, without what the one before it held, and when it had compared itself again.
struct Loss {
    from: u64,
    until: u64,
}

/// Every lost memory of a history.
pub(super) struct Losses {
    losses: Vec<Loss>,
    twice: usize,
    /// When a layout of so few members was adopted that none before it had as few.
    narrowed: Vec<(u64, usize)>,
}

/// Whose memory or disk is lost.
enum Of<'a> {
    /// Of the process that starts, or of the one that goes on.
    Process(&'a str),
    /// Of the next process on this machine.
    Machine(&'a str),
}

impl Losses {
    /// Every start without what the process before held.
    pub(super) fn of(history: &History) -> Self {
        Self::collect(history, |words| match words {
            ["start", "of", process, ..] => Some(Of::Process(process)),
            _ => None,
        })
    }

    /// Every disk of a history that was lost, with what only it held: wiped, damaged, an older copy; without power, too, if
    /// `power` counts. The machine is whole again when a process on it has compared itself.
    pub(super) fn of_disks(history: &History, power: bool) -> Self {
        Self::collect(history, |words| match words {
            ["power", ..] if !power => None,
            ["disk" | "power", "of", "machine", _, "is", "lost", "by", process] => Some(Of::Process(process)),
            ["disk" | "power", "of", "machine", machine, "is", "lost", ..] => Some(Of::Machine(machine)),
            _ => None,
        })
    }

    /// From what `begins` says of a fault's words, until a process was Ready.
    fn collect<'a>(history: &'a History, begins: impl Fn(&[&'a str]) -> Option<Of<'a>>) -> Self {
        let mut down: BTreeMap<&str, usize> = BTreeMap::new();
        let mut open: BTreeMap<&str, usize> = BTreeMap::new();
        let mut losses: Vec<Loss> = Vec::new();
        for event in &history.events {
            let Event::Fault { t, what } = event else { continue };
            let words: Vec<&str> = what.split(' ').collect();
            match words[..] {
                ["start", "of", process, "on", "machine", machine, ..] => {
                    if let Some(at) = down.remove(machine) {
                        open.insert(process, at);
                    }
                }
                ["ready", "is", process, ..] => {
                    if let Some(at) = open.remove(process) {
                        losses[at].until = *t;
                    }
                }
                _ => {}
            }
            if let Some(of) = begins(&words) {
                match of {
                    Of::Process(process) => open.insert(process, losses.len()),
                    Of::Machine(machine) => down.insert(machine, losses.len()),
                };
                losses.push(Loss { from: *t, until: u64::MAX });
            }
        }
        Self { losses, twice: usize::from(!history.header.identities), narrowed: narrowed(history) }
    }

    /// Most machines that were without their memory at one time after `from` and up to `to`, microseconds.
    fn at_once(&self, from: u64, to: u64) -> usize {
        let within: Vec<&Loss> = self.losses.iter().filter(|loss| loss.from > from && loss.from <= to).collect();
        let at = |time: u64| within.iter().filter(|loss| loss.from <= time && time < loss.until).count();
        within.iter().map(|loss| at(loss.from)).max().unwrap_or(0)
    }

    /// Whether all that acknowledged `write` may have lost it by `to`, or those of them whom a quorum of `votes` out of
    /// `copies` owners would ask.
    pub(super) fn may_have_taken(&self, write: &Op<'_>, votes: u8, copies: u8, to: u64) -> bool {
        let shared = (write.invoke.w + votes).saturating_sub(copies);
        if self.twice > 0 && shared <= 1 {
            return true;
        }
        let acks = write.ok().map_or(1, |end| end.acks.max(1));
        let narrowed = self.narrowed.iter().filter(|(at, _)| *at <= to).map(|(_, members)| *members).min();
        let held = usize::from(write.invoke.w.min(acks)).min(narrowed.unwrap_or(usize::MAX));
        self.at_once(write.invoke.t, to) + self.twice >= held
    }
}

/// When a layout of so few members was adopted that none before it had as few, and how many.
fn narrowed(history: &History) -> Vec<(u64, usize)> {
    let members = |event: &Event| match event {
        Event::Fault { t, what } => {
            Some((*t, what.strip_prefix("layout of ")?.strip_suffix(" members")?.parse().ok()?))
        }
        Event::Invoke(_) | Event::Ok(_) | Event::Fail(_) | Event::Maybe(_) => None,
        Event::Founded { .. } | Event::Flush { .. } | Event::Created { .. } | Event::Phase { .. } => None,
    };
    history.events.iter().filter_map(members).collect()
}
