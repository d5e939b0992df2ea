//! Interned actors: a record names the process that stamped it in 16 bits instead of 64.
//!
//! Each live record and ghost holds one reference; an id is free again when the last is gone, so a cache that runs for
//! years through many restarts of its peers never runs out. 65,536 at once is the limit; beyond it a write is refused.

use crate::{id::ActorId, rng::SeededMap};
use foldhash::fast::FixedState;

/// The table of one memtable.
pub(super) struct Actors {
    ids: SeededMap<ActorId, u16>,
    actors: Vec<(ActorId, u32)>,
    free: Vec<u16>,
    last: u16,
}

impl Actors {
    pub(super) fn new(seed: u64) -> Self {
        let ids = SeededMap::with_hasher(FixedState::with_seed(seed));
        Self { ids, actors: Vec::new(), free: Vec::new(), last: 0 }
    }

    /// Upper bound of the bytes that acquiring `actor` may add.
    #[inline]
    pub(super) fn growth(&self, actor: ActorId) -> u64 {
        let known = self.actors.get(usize::from(self.last)).is_some_and(|(last, uses)| *last == actor && *uses > 0);
        if known || self.ids.contains_key(&actor) {
            return 0;
        }
        let map = if self.ids.len() < self.ids.capacity() { 0 } else { self.ids.allocation_size() + 256 };
        let full = self.free.is_empty() && self.actors.len() == self.actors.capacity();
        let vectors = if full { self.actors.capacity() * 18 + 128 } else { 0 };
        (map + vectors) as u64
    }

    /// Takes a reference to `actor`; `None` when 65,536 others are in use.
    #[inline]
    pub(super) fn acquire(&mut self, actor: ActorId) -> Option<u16> {
        if let Some((known, references)) = self.actors.get_mut(usize::from(self.last))
            && *known == actor
            && *references > 0
        {
            *references += 1;
            return Some(self.last);
        }
        let id = match self.ids.get(&actor) {
            Some(id) => *id,
            None => {
                let id = match self.free.pop() {
                    Some(id) => id,
                    None => {
                        let id = u16::try_from(self.actors.len()).ok()?;
                        self.actors.push((actor, 0));
                        // Releasing an id must never allocate.
                        self.free.reserve_exact(self.actors.capacity());
                        id
                    }
                };
                self.actors[usize::from(id)] = (actor, 0);
                self.ids.insert(actor, id);
                id
            }
        };
        self.actors[usize::from(id)].1 += 1;
        self.last = id;
        Some(id)
    }

    /// Gives one reference back.
    #[inline]
    pub(super) fn release(&mut self, id: u16) {
        let (actor, references) = &mut self.actors[usize::from(id)];
        assert!(*references > 0, "an actor's references are counted");
        *references -= 1;
        if *references == 0 {
            self.ids.remove(actor);
            self.free.push(id);
        }
    }

    #[inline]
    pub(super) fn resolve(&self, id: u16) -> ActorId {
        self.actors[usize::from(id)].0
    }

    #[cfg(test)]
    pub(super) fn references(&self, id: u16) -> u64 {
        u64::from(self.actors[usize::from(id)].1)
    }

    pub(super) fn bytes(&self) -> u64 {
        (self.ids.allocation_size() + self.actors.capacity() * 16 + self.free.capacity() * 2) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_reused_only_after_its_last_reference() {
        let mut actors = Actors::new(1);
        let (a, b) = (actors.acquire(ActorId(10)).unwrap(), actors.acquire(ActorId(20)).unwrap());
        assert_eq!(actors.acquire(ActorId(10)), Some(a));
        actors.release(a);
        assert_eq!(actors.resolve(a), ActorId(10));
        actors.release(a);
        assert_eq!(actors.acquire(ActorId(30)), Some(a));
        assert_eq!((actors.resolve(a), actors.resolve(b)), (ActorId(30), ActorId(20)));
        assert_eq!(actors.acquire(ActorId(10)), Some(2));
    }

    #[test]
    fn the_65537th_actor_is_refused() {
        let mut actors = Actors::new(1);
        assert!((0..65_536).all(|actor| actors.acquire(ActorId(actor)).is_some()));
        assert_eq!(actors.acquire(ActorId(65_536)), None);
        actors.release(9);
        assert_eq!(actors.acquire(ActorId(65_536)), Some(9));
    }
}
