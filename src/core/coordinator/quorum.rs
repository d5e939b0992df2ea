//! Who was asked, and what each said: the part that reads and writes share (PROTOCOL §4).
//!
//! Invariants: a vote is one member, once, whatever arrives twice; owners come first and a fallback is never an owner;
//! a fallback stands for exactly one owner. Members are indexes into the ring; when the ring changes they are mapped to
//! the new one, and who is no member any more is lost.

use crate::limits::COPIES_MAX;

/// Most members that one request asks: every owner, and a stand-in for half of them.
pub(crate) const TARGETS_MAX: usize = COPIES_MAX + COPIES_MAX / 2;

/// The members of a request, owners first.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Targets<A> {
    members: [u16; TARGETS_MAX],
    answers: [A; TARGETS_MAX],
    /// Whom each fallback stands for, in the order of fallbacks.
    covers: [u16; TARGETS_MAX - COPIES_MAX],
    owners: u8,
    len: u8,
}

impl<A: Copy> Targets<A> {
    /// The owners of a partition, each of whom has said `unasked`.
    pub(crate) fn new(owners: &[u16], unasked: A) -> Self {
        assert!(owners.len() <= COPIES_MAX, "namespaces are checked to have at most COPIES_MAX copies");
        let mut members = [u16::MAX; TARGETS_MAX];
        members[..owners.len()].copy_from_slice(owners);
        let owners = u8::try_from(owners.len()).expect("at most COPIES_MAX");
        let covers = [u16::MAX; TARGETS_MAX - COPIES_MAX];
        Self { members, answers: [unasked; TARGETS_MAX], covers, owners, len: owners }
    }

    /// Adds a stand-in for the owner `covers` (`None`: for whoever it holds hints for); `None` when there is no room for
    /// another, or the member is asked already.
    pub(crate) fn add_fallback(&mut self, member: u16, covers: Option<u16>, answer: A) -> Option<usize> {
        let at = usize::from(self.len);
        if at - self.owners() == self.covers.len() || self.position(member).is_some() {
            return None;
        }
        self.covers[at - self.owners()] = covers.unwrap_or(u16::MAX);
        self.members[at] = member;
        self.answers[at] = answer;
        self.len += 1;
        Some(at)
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        usize::from(self.len)
    }

    /// How many of them are owners.
    pub(crate) fn owners(&self) -> usize {
        usize::from(self.owners)
    }

    /// Whether the one at `position` owns the key.
    pub(crate) fn is_owner(&self, position: usize) -> bool {
        position < self.owners()
    }

    /// The member at `position`.
    pub(crate) fn member(&self, position: usize) -> u16 {
        self.members[position]
    }

    /// Where `member` stands.
    #[inline]
    pub(crate) fn position(&self, member: u16) -> Option<usize> {
        self.members[..self.len()].iter().position(|known| *known == member)
    }

    /// The owner for whom the fallback at `position` stands.
    pub(crate) fn covers(&self, position: usize) -> Option<u16> {
        position.checked_sub(self.owners()).map(|at| self.covers[at]).filter(|owner| *owner != u16::MAX)
    }

    /// What the one at `position` said.
    pub(crate) fn answer(&self, position: usize) -> A {
        self.answers[position]
    }

    /// Notes what the one at `position` said.
    pub(crate) fn set(&mut self, position: usize, answer: A) {
        assert!(position < self.len(), "only who was asked answers");
        self.answers[position] = answer;
    }

    /// What owners and fallbacks said, in order.
    pub(crate) fn answers(&self) -> &[A] {
        &self.answers[..self.len()]
    }

    /// Gives every member its index in a new ring; those without one become nobody, and say `lost`.
    pub(crate) fn remap(&mut self, new_index: impl Fn(u16) -> Option<u16>, lost: A) {
        for position in 0..self.len() {
            match new_index(self.members[position]) {
                Some(index) => self.members[position] = index,
                None => {
                    self.members[position] = u16::MAX;
                    self.answers[position] = lost;
                }
            }
        }
        for owner in self.covers.iter_mut().filter(|owner| **owner != u16::MAX) {
            *owner = new_index(*owner).unwrap_or(u16::MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fallback_is_never_an_owner_and_never_asked_twice() {
        let mut targets = Targets::new(&[4, 7, 9], 'u');
        assert_eq!(targets.add_fallback(7, None, 'p'), None);
        assert_eq!(targets.add_fallback(2, Some(9), 'p'), Some(3));
        assert_eq!(targets.add_fallback(2, None, 'p'), None);
        assert!(!targets.is_owner(3) && targets.is_owner(2));
        assert_eq!((targets.covers(3), targets.covers(2)), (Some(9), None));
    }

    #[test]
    fn members_follow_a_new_ring_and_who_left_is_lost() {
        let mut targets = Targets::new(&[0, 1, 2], 'p');
        targets.remap(|old| (old != 1).then_some(old + 10), 'l');
        assert_eq!(targets.answers(), ['p', 'l', 'p']);
        assert_eq!((targets.position(12), targets.position(1)), (Some(2), None));
    }
}
