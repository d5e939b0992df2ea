//! One read's votes: an answer goes in, a verdict comes out; no send, no clock (PROTOCOL §4 "Read", §6).
//!
//! What it promises:
//! - strict: only Ready owners vote, with a version or with "absent"; an absent that may have forgotten the version found
//!   (its ghost or forget floor is not below it) does not vote for it. If R votes cannot be had because of that alone,
//!   the answer is a miss; otherwise `Unavailable`.
//! - sloppy: Settled owners vote too. Warming owners and fallbacks are merged, never counted; a fallback's "absent" says
//!   nothing. When everybody who can be asked has answered, the merge is the answer, whatever the count.
//!
//! Shown by the enumeration of every order of answers in `tests` below, and by the rig's schedules.

use super::quorum::{READ_TARGETS_MAX, Targets};
use crate::{canary::canary, value::Version, wire::peer::ReplicaState};

/// What one member said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Not asked.
    Unasked,
    /// Asked.
    Pending,
    /// It holds this version.
    Holds(ReplicaState, Version),
    /// It holds nothing, and may have forgotten up to this version.
    Absent(ReplicaState, Version),
    /// It would not say, or its link was lost.
    Lost,
    /// It cannot be asked: it is believed down, or its circuit breaker is open.
    Unreached,
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Wait for more answers.
    Wait,
    /// Nobody asked is left to answer: ask another owner, if one can be reached.
    AskMore,
    /// The newest version found is the answer.
    Decided(Outcome),
    /// R votes cannot be had.
    Unavailable {
        /// Votes there were.
        have: u8,
    },
}

/// What a decided read is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// The newest version found; `None`: a miss.
    pub(crate) version: Option<Version>,
    /// Members that answered and were merged.
    pub(crate) acks: u8,
    /// Fallbacks among them.
    pub(crate) fallbacks: u8,
    /// Fewer than R eligible votes are behind it.
    pub(crate) sloppy: bool,
    /// A Warming replica's answer was merged.
    pub(crate) warming: bool,
    /// The voters held different versions.
    pub(crate) divergent: bool,
}

/// The votes of one read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Votes {
    pub(crate) targets: Targets<Answer, READ_TARGETS_MAX>,
    need: u8,
    strict: bool,
    /// Patience with who is silent ran out.
    impatient: bool,
}

impl Votes {
    /// Nobody has been asked yet. `need` is R, at most the number of owners.
    pub(crate) fn new(owners: &[u16], need: u8, strict: bool) -> Self {
        assert!(need >= 1 && usize::from(need) <= owners.len(), "quorums are clamped to the owners there are");
        Self { targets: Targets::new(owners, &[], Answer::Unasked), need, strict, impatient: false }
    }

    /// Patience ran out; `false` if it had before.
    pub(crate) fn lose_patience(&mut self) -> bool {
        !std::mem::replace(&mut self.impatient, true)
    }

    /// R.
    pub(crate) fn need(&self) -> u8 {
        self.need
    }

    /// Notes an answer; `false` when that member's vote is in already or it was never asked: one node, one vote.
    pub(crate) fn record(&mut self, position: usize, answer: Answer) -> bool {
        let open = matches!(self.targets.answer(position), Answer::Pending);
        if open {
            self.targets.set(position, answer);
        }
        open
    }

    /// The newest version anybody holds.
    pub(crate) fn newest(&self) -> Option<Version> {
        let held = self.targets.answers().iter().filter_map(|answer| match answer {
            Answer::Holds(_, version) => Some(*version),
            Answer::Unasked | Answer::Pending | Answer::Absent(..) | Answer::Lost | Answer::Unreached => None,
        });
        held.max()
    }

    /// Who holds `version`, owners first.
    pub(crate) fn holders(&self, version: Version) -> impl Iterator<Item = usize> + '_ {
        let answers = self.targets.answers().iter().enumerate();
        answers
            .filter(move |(_, answer)| matches!(answer, Answer::Holds(_, held) if *held == version))
            .map(|(at, _)| at)
    }

    fn eligible(&self, position: usize, state: ReplicaState) -> bool {
        self.targets.is_owner(position)
            && match state {
                ReplicaState::Ready => true,
                ReplicaState::Settled => !self.strict,
                ReplicaState::Warming => canary!(K7),
                ReplicaState::Fallback => false,
            }
    }

    /// Whether the answers so far are enough with those of the owners `more`, and of all that were asked and are still out.
    pub(crate) fn suffices_with(mut self, more: &[usize]) -> bool {
        for at in 0..self.targets.len() {
            if more.contains(&at) || self.targets.answer(at) == Answer::Pending {
                self.targets.set(at, Answer::Absent(ReplicaState::Ready, Version::ZERO));
            }
        }
        matches!(self.verdict(), Verdict::Decided(_))
    }

    /// What the answers so far mean.
    pub(crate) fn verdict(&self) -> Verdict {
        let newest = self.newest();
        let (mut votes, mut forgetful, mut pending, mut unasked) = (0u8, 0u8, 0u8, 0u8);
        let (mut acks, mut fallbacks, mut warming, mut divergent) = (0u8, 0u8, false, false);
        for (position, answer) in self.targets.answers().iter().enumerate() {
            let (state, held) = match answer {
                Answer::Unasked => {
                    unasked += u8::from(self.targets.is_owner(position));
                    continue;
                }
                Answer::Pending => {
                    pending += 1;
                    continue;
                }
                Answer::Lost | Answer::Unreached => continue,
                Answer::Holds(state, version) => {
                    divergent |= Some(*version) != newest;
                    (*state, true)
                }
                Answer::Absent(state, forgotten) => {
                    if self.strict && self.eligible(position, *state) && newest.is_some_and(|found| *forgotten >= found)
                    {
                        forgetful += 1;
                        continue;
                    }
                    (*state, false)
                }
            };
            if self.eligible(position, state) {
                votes += 1;
                divergent |= !held && newest.is_some();
            } else if !held && !self.targets.is_owner(position) {
                // A fallback without a hint knows nothing about the key.
                continue;
            }
            acks += 1;
            fallbacks += u8::from(!self.targets.is_owner(position));
            warming |= state == ReplicaState::Warming;
        }
        let outcome = Outcome { version: newest, acks, fallbacks, sloppy: votes < self.need, warming, divergent };
        if votes >= self.need {
            return Verdict::Decided(outcome);
        }
        if pending > 0 {
            return Verdict::Wait;
        }
        if unasked > 0 {
            return Verdict::AskMore;
        }
        if self.strict {
            // With enough Ready owners, some of which evicted what the others still hold, a miss is the honest answer.
            if votes + forgetful >= self.need {
                return Verdict::Decided(Outcome { version: None, ..outcome });
            }
            return Verdict::Unavailable { have: votes };
        }
        if acks > 0 { Verdict::Decided(outcome) } else { Verdict::Unavailable { have: 0 } }
    }
}
