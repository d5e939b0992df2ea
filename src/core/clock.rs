//! The hybrid logical clock with bounds (PROTOCOL §1; Kulkarni et al., "Logical Physical Clocks", 2014).
//!
//! What it promises: readings only rise; they never pass what a wall within `CLOCK_OFFSET_MAX` of ours could show; and
//! one jump of the wall poisons nothing. How: time is not the wall itself but a *disciplined* wall, `mono` plus an
//! offset. The offset follows the wall while it moves like one (slewing), and stays where it was when the wall jumps by
//! more than `CLOCK_JUMP`: the clock then ticks on from the old offset, `unconfirmed`, until the control plane says that
//! peers confirmed the new wall. A frozen wall is a jump that grows. Not here: comparing clocks between nodes
//! (`control`), and the bound kept on disk (the driver stores it, `NodeConfig::clock_floor` brings it back).

use crate::{
    canary::canary,
    limits::{CLOCK_JUMP, CLOCK_OFFSET_MAX, MESSAGE_AGE_MAX},
    time::{Mono, Now, Wall},
    value::Hlc,
};
use std::time::Duration;

/// How long a wall must move like one before the offset follows it.
const DISCIPLINE_EVERY: Duration = Duration::from_secs(1);

/// Why a peer's message is refused for its clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skew {
    /// It claims a time that a wall within bounds of ours cannot show.
    Ahead,
    /// It is minutes old: it could bring back what was since forgotten.
    Behind,
}

/// A shard's clock; the control plane has one too. Two shards never stamp one key, so they need not share.
#[derive(Clone, Debug)]
pub struct Clock {
    last: Hlc,
    /// Disciplined wall minus mono, milliseconds.
    offset: i64,
    disciplined_at: Mono,
    started: bool,
    jumped: bool,
}

fn offset_of(now: Now) -> i64 {
    i64::try_from(now.wall.0).unwrap_or(i64::MAX).saturating_sub(i64::try_from(now.mono.millis()).unwrap_or(i64::MAX))
}

impl Clock {
    /// A clock that never reads below `floor`.
    pub fn new(floor: Hlc) -> Self {
        Self { last: floor, offset: 0, disciplined_at: Mono::default(), started: false, jumped: false }
    }

    /// Looks at both clocks; call it with every input, before stamping.
    #[inline]
    pub fn observe(&mut self, now: Now) {
        let offset = offset_of(now);
        if !self.started {
            (self.offset, self.disciplined_at, self.started) = (offset, now.mono, true);
            return;
        }
        if canary!(K15) && offset < self.offset - 100 {
            (self.offset, self.last) = (offset, Hlc::at(now.wall));
        }
        if Duration::from_millis(offset.abs_diff(self.offset)) > CLOCK_JUMP {
            self.jumped = true;
        } else if !self.jumped && now.mono.since(self.disciplined_at) >= DISCIPLINE_EVERY {
            (self.offset, self.disciplined_at) = (offset, now.mono);
        }
    }

    /// Peers confirmed the wall: follow it again, wherever it is now.
    pub fn confirm(&mut self, now: Now) {
        (self.offset, self.disciplined_at, self.started, self.jumped) = (offset_of(now), now.mono, true, false);
    }

    /// Whether the wall jumped and nobody has confirmed it since: do not coordinate.
    pub fn is_unconfirmed(&self) -> bool {
        self.jumped
    }

    /// The disciplined wall: what expiry is judged by.
    #[inline]
    pub fn wall(&self, now: Now) -> Wall {
        self.wall_at(now.mono)
    }

    fn wall_at(&self, mono: Mono) -> Wall {
        let millis = i64::try_from(mono.millis()).unwrap_or(i64::MAX).saturating_add(self.offset);
        Wall(u64::try_from(millis).unwrap_or(0))
    }

    /// The latest reading, without a new one.
    pub fn last(&self) -> Hlc {
        self.last
    }

    /// A new reading, above every earlier one and every message folded in.
    #[inline]
    pub fn stamp(&mut self, now: Now) -> Hlc {
        self.last = self.last.next().max(Hlc::at(self.wall(now)));
        self.last
    }

    /// A reading for a message: not below any stamp, needs not be new.
    #[inline]
    pub fn reading(&mut self, now: Now) -> Hlc {
        self.reading_at(now.mono)
    }

    /// As `reading`: the wall that this clock follows moves with monotonic time.
    #[inline]
    pub fn reading_at(&mut self, mono: Mono) -> Hlc {
        self.last = self.last.max(Hlc::at(self.wall_at(mono)));
        self.last
    }

    /// Raises the clock above `seen`, a version held here or reported by a replica. Bounded like a message.
    #[inline]
    pub fn raise(&mut self, seen: Hlc, now: Now) {
        if seen.wall() <= self.wall(now) + CLOCK_OFFSET_MAX {
            self.last = self.last.max(seen);
        }
    }

    /// Folds in a message's clock.
    ///
    /// # Errors
    /// Refused, and not folded in: too far ahead or behind.
    #[inline]
    pub fn receive(&mut self, theirs: Hlc, now: Now) -> Result<(), Skew> {
        let (wall, theirs_wall) = (self.wall(now), theirs.wall());
        if theirs_wall > wall + CLOCK_OFFSET_MAX {
            return Err(Skew::Ahead);
        }
        if theirs_wall + MESSAGE_AGE_MAX < wall && !canary!(K39) {
            return Err(Skew::Behind);
        }
        self.last = self.last.max(theirs);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(mono_ms: u64, wall_ms: u64) -> Now {
        Now { mono: Mono(mono_ms * 1_000_000), wall: Wall(wall_ms) }
    }

    #[test]
    fn stamps_rise_within_a_millisecond_and_when_the_wall_stands() {
        let mut clock = Clock::new(Hlc(0));
        clock.observe(at(0, 1_000));
        let first = clock.stamp(at(0, 1_000));
        assert!(clock.stamp(at(0, 1_000)) > first);
        assert_eq!(first.wall(), Wall(1_000));
    }

    #[test]
    fn a_stored_floor_holds_over_a_restart_with_an_older_wall() {
        let mut clock = Clock::new(Hlc::at(Wall(90_000)));
        clock.observe(at(0, 1_000));
        assert!(clock.stamp(at(0, 1_000)) > Hlc::at(Wall(90_000)));
    }

    #[test]
    fn a_wall_that_jumps_an_hour_is_not_followed_until_peers_confirm_it() {
        let hour = 3_600_000;
        let mut clock = Clock::new(Hlc(0));
        clock.observe(at(0, 1_000_000));
        clock.observe(at(10, 1_000_010 + hour));
        assert!(clock.is_unconfirmed());
        assert_eq!(clock.stamp(at(10, 1_000_010 + hour)).wall(), Wall(1_000_010), "ticks on from the old offset");
        clock.confirm(at(20, 1_000_020 + hour));
        assert!(!clock.is_unconfirmed());
        assert_eq!(clock.stamp(at(20, 1_000_020 + hour)).wall(), Wall(1_000_020 + hour));
    }

    #[test]
    fn a_frozen_wall_is_a_jump_that_grows() {
        let mut clock = Clock::new(Hlc(0));
        for mono in (0..200).step_by(10) {
            clock.observe(at(mono, 5_000));
        }
        assert!(clock.is_unconfirmed());
    }

    #[test]
    fn slewing_by_half_a_permille_is_followed() {
        let mut clock = Clock::new(Hlc(0));
        for second in 0..1_000u64 {
            clock.observe(at(second * 1_000, 7_000_000 + second * 1_000 + second / 2));
        }
        assert!(!clock.is_unconfirmed());
        let wall = clock.wall(at(999_000, 0)).0;
        assert!(wall.abs_diff(7_000_000 + 999_000 + 499) <= 1, "{wall}");
    }

    #[test]
    fn messages_from_beyond_the_bounds_are_refused_and_not_folded_in() {
        let mut clock = Clock::new(Hlc(0));
        let now = at(0, 1_000_000);
        clock.observe(now);
        let before = clock.last();
        assert_eq!(clock.receive(Hlc::at(Wall(1_000_501)), now), Err(Skew::Ahead));
        assert_eq!(clock.receive(Hlc::at(Wall(969_999)), now), Err(Skew::Behind));
        assert_eq!(clock.last(), before);
        assert_eq!(clock.receive(Hlc::at(Wall(1_000_500)), now), Ok(()));
        assert!(clock.stamp(now) > Hlc::at(Wall(1_000_500)));
    }
}
