//! Who was asked, and what each said: the part that reads and writes share (PROTOCOL §4).
//!
//! Invariants: a vote is one member, once, whatever arrives twice; owners come first and a fallback is never an owner;
//! a fallback stands for exactly one owner, and in a write there is room for one for each. Owners of the layout that is read come
//! first of all, then those that only the other active layout has; an owner may count for both. Members are indexes into
//! the view; when the view's members change they are mapped to the new ones, and who is no member any more is lost.

use crate::limits::COPIES_MAX;

/// Most stand-ins that one request asks beyond one for each owner, in the place of those that could not.
const SPARE_MAX: usize = COPIES_MAX / 2;
/// Most members that a read asks: the owners of one layout, and stand-ins that may hold hints. Of more than six owners not each has
/// its own: they weigh 24 bytes each in every request in flight, and one of them may be enough.
pub(crate) const READ_TARGETS_MAX: usize = COPIES_MAX + SPARE_MAX;
/// Most members that a write asks: the owners of two layouts, and stand-ins for all of them (with four for all, W = N was refused
/// where five owners were dead and five others lived; simulator, seed d00086e).
pub(crate) const WRITE_TARGETS_MAX: usize = 4 * COPIES_MAX + SPARE_MAX;

/// The members of a request, owners first.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Targets<A, const MOST: usize> {
    members: [u16; MOST],
    answers: [A; MOST],
    /// Whom each stands for; owners for nobody.
    covers: [u16; MOST],
    /// Owners in the layout that is read.
    readers: u8,
    /// Owners in either.
    owners: u8,
    len: u8,
    /// A bit for each owner that is one in the other active layout.
    beside: u32,
}

const _: () = assert!(2 * COPIES_MAX <= 32, "a bit for each owner");

impl<A: Copy, const MOST: usize> Targets<A, MOST> {
    /// The owners of a partition, each of whom has said `unasked`; `beside`: in the other active layout.
    pub(crate) fn new(owners: &[u16], beside: &[u16], unasked: A) -> Self {
        assert!(
            owners.len().max(beside.len()) <= COPIES_MAX && owners.len() + beside.len() <= MOST - SPARE_MAX,
            "namespaces are checked to have at most COPIES_MAX copies"
        );
        let mut members = [u16::MAX; MOST];
        members[..owners.len()].copy_from_slice(owners);
        let (readers, mut len, mut mask) = (owners.len(), owners.len(), 0);
        for member in beside {
            let at = members[..len].iter().position(|known| known == member).unwrap_or(len);
            members[at] = *member;
            len = len.max(at + 1);
            mask |= 1 << at;
        }
        let small = |count: usize| u8::try_from(count).expect("at most WRITE_TARGETS_MAX");
        let (readers, len) = (small(readers), small(len));
        let covers = [u16::MAX; MOST];
        Self { members, answers: [unasked; MOST], covers, readers, owners: len, len, beside: mask }
    }

    /// Whether the one at `position` owns the key in the layout that is read.
    pub(crate) fn is_reader(&self, position: usize) -> bool {
        position < usize::from(self.readers)
    }

    /// Whether the one at `position` owns the key in the other active layout.
    pub(crate) fn is_beside(&self, position: usize) -> bool {
        self.is_owner(position) && self.beside & (1 << position) != 0
    }

    /// Adds a stand-in for the owner `covers` (`None`: for whoever it holds hints for); `None` when the member is asked
    /// already, or so many are that another would hardly do better.
    pub(crate) fn add_fallback(&mut self, member: u16, covers: Option<u16>, answer: A) -> Option<usize> {
        let at = usize::from(self.len);
        if at == MOST.min(2 * self.owners() + SPARE_MAX) || self.position(member).is_some() {
            return None;
        }
        self.covers[at] = covers.unwrap_or(u16::MAX);
        self.members[at] = member;
        self.answers[at] = answer;
        self.len += 1;
        Some(at)
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        usize::from(self.len)
    }

    /// How many of them are owners, in either active layout.
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
        Some(self.covers[position]).filter(|owner| *owner != u16::MAX)
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
        let mut targets = Targets::<char, READ_TARGETS_MAX>::new(&[4, 7, 9], &[], 'u');
        assert_eq!(targets.add_fallback(7, None, 'p'), None);
        assert_eq!(targets.add_fallback(2, Some(9), 'p'), Some(3));
        assert_eq!(targets.add_fallback(2, None, 'p'), None);
        assert!(!targets.is_owner(3) && targets.is_owner(2));
        assert_eq!((targets.covers(3), targets.covers(2)), (Some(9), None));
    }

    #[test]
    fn there_is_room_for_a_stand_in_for_each_owner_of_two_layouts_and_a_few_more() {
        let owners: Vec<u16> = (0..).take(2 * COPIES_MAX).collect();
        let (readers, beside) = owners.split_at(COPIES_MAX);
        let mut targets = Targets::<char, WRITE_TARGETS_MAX>::new(readers, beside, 'u');
        let mut asked = 100..;
        for owner in &owners {
            assert!(targets.add_fallback(asked.next().expect("endless"), Some(*owner), 'p').is_some());
        }
        assert!((0..targets.len()).all(|at| targets.is_beside(at) == (COPIES_MAX..2 * COPIES_MAX).contains(&at)));
        let more = asked.take_while(|member| targets.add_fallback(*member, None, 'p').is_some());
        assert_eq!(more.count(), SPARE_MAX);
    }

    #[test]
    fn an_owner_in_both_layouts_is_asked_once_and_counts_for_both() {
        let targets = Targets::<char, WRITE_TARGETS_MAX>::new(&[4, 7, 9], &[9, 5, 7], 'u');
        let facts = |at| (targets.member(at), targets.is_reader(at), targets.is_beside(at), targets.is_owner(at));
        assert_eq!([0, 1, 2].map(facts), [(4, true, false, true), (7, true, true, true), (9, true, true, true)]);
        assert_eq!((facts(3), targets.len()), ((5, false, true, true), 4));
    }

    #[test]
    fn members_follow_a_new_ring_and_who_left_is_lost() {
        let mut targets = Targets::<char, READ_TARGETS_MAX>::new(&[0, 1, 2], &[], 'p');
        targets.remap(|old| (old != 1).then_some(old + 10), 'l');
        assert_eq!(targets.answers(), ['p', 'l', 'p']);
        assert_eq!((targets.position(12), targets.position(1)), (Some(2), None));
    }
}
