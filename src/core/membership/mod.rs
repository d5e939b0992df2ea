//! Who answers: SWIM with suspicion, as foca implements it (PROTOCOL §7; Das, Gupta, Motivala, DSN 2002). The only room
//! that knows foca.
//!
//! In go packets, announcements and due timers; out come packets and changes, through `Effects`. Timers wait here in a
//! queue of (deadline, sequence), so that ties are served in the order they were made. Invariants:
//! - a member is up until it is *down*: suspicion alone changes no routing;
//! - nothing here changes a role or a layout: liveness routes, roles own;
//! - a packet that cannot be read changes nothing and is counted;
//! - a packet that names a newer process of this node changes nothing but `superseded`.

mod codec;
mod identity;

pub use identity::Identity;

use crate::{id::NodeId, limits::GOSSIP_BYTES_MAX, rng::Rng, time::Mono};
use codec::Codec;
use foca::{Config, Foca, NoCustomBroadcast, Notification, PeriodicParams, Runtime, State, Timer, TimerToken};
use std::{
    collections::BTreeMap,
    num::{NonZeroU8, NonZeroUsize},
    time::Duration,
};

/// Suspicion of a cluster of up to ten.
const SUSPICION: Duration = Duration::from_secs(2);
/// How long a down member is remembered: it comes back with a new identity, so long is safe.
const DOWN_REMEMBERED: Duration = Duration::from_secs(24 * 3600);

/// What a member is believed to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It answers.
    Alive,
    /// It did not answer lately; routed to until that is certain.
    Suspect,
    /// It does not answer.
    Down,
}

/// What changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A member is there for the first time, or again.
    Up(Identity),
    /// A member is down.
    Down(Identity),
    /// A newer process took the place of this member's; it was not noticed down.
    Renewed(Identity),
}

/// What a call wants done, in order; the caller drains it.
#[derive(Debug, Default)]
pub struct Effects {
    /// Packets with their targets.
    pub packets: Vec<(Identity, Vec<u8>)>,
    /// Changes of who is up.
    pub changes: Vec<Change>,
    /// Members that this very process began to suspect; suspicions heard of are not here, and change no routing.
    pub suspected: Vec<NodeId>,
    timers: Vec<(Timer<Identity>, Duration)>,
    /// Whether who is up, or as which process, may have changed.
    touched: bool,
    /// The token that valid timers carry now.
    token: Option<TimerToken>,
}

impl Runtime<Identity> for Effects {
    fn notify(&mut self, notification: Notification<'_, Identity>) {
        self.touched = true;
        match notification {
            Notification::MemberUp(identity) => self.changes.push(Change::Up(*identity)),
            Notification::MemberDown(identity) => self.changes.push(Change::Down(*identity)),
            // A renewal is the same process after a false verdict; only another incarnation is news.
            Notification::Rename(before, after) if before.incarnation != after.incarnation => {
                self.changes.push(Change::Renewed(*after));
            }
            Notification::Rename(..)
            | Notification::Active
            | Notification::Idle
            | Notification::Defunct
            | Notification::Rejoin(_) => {}
        }
    }

    fn send_to(&mut self, to: Identity, data: &[u8]) {
        self.packets.push((to, data.to_vec()));
    }

    fn submit_after(&mut self, event: Timer<Identity>, after: Duration) {
        match &event {
            Timer::ProbeRandomMember(token) => self.token = Some(*token),
            Timer::ChangeSuspectToDown { member_id, .. } => self.suspected.push(member_id.node),
            Timer::SendIndirectProbe { .. }
            | Timer::PeriodicAnnounce(_)
            | Timer::PeriodicAnnounceDown(_)
            | Timer::PeriodicGossip(_)
            | Timer::RemoveDown(_) => {}
        }
        self.timers.push((event, after));
    }
}

/// One process's view of the membership.
pub struct Membership {
    foca: Foca<Identity, Codec, Rng, NoCustomBroadcast>,
    timers: BTreeMap<(Mono, u64), Timer<Identity>>,
    timers_made: u64,
    token: TimerToken,
    /// Everybody who is up, without oneself: kept, because every input asks.
    up: BTreeMap<NodeId, Identity>,
    /// Members that the configuration was last scaled to.
    scaled_to: usize,
    refused: u64,
    superseded: bool,
}

impl Membership {
    /// Nobody but oneself is known.
    pub fn new(me: Identity, rng: Rng) -> Self {
        Self {
            foca: Foca::new(me, config(1), rng, Codec::new(&me)),
            timers: BTreeMap::new(),
            timers_made: 0,
            token: TimerToken::default(),
            up: BTreeMap::new(),
            scaled_to: 1,
            refused: 0,
            superseded: false,
        }
    }

    /// Tells `peer` of oneself; the answer brings everybody that it knows.
    pub fn announce(&mut self, peer: Identity, now: Mono) -> Effects {
        self.drive(now, |foca, effects| foca.announce(peer, effects))
    }

    /// Takes `members` for alive as they are, and tells nobody: the others know them too. For a view that was had before,
    /// as in a simulation that begins with a whole mesh. O(members²).
    pub fn restore(&mut self, members: impl Iterator<Item = Identity>, now: Mono) -> Effects {
        self.drive(now, |foca, effects| foca.apply_many(members.map(foca::Member::alive), false, effects))
    }

    /// Shows an older process that there is a newer one of its node, if that is so: the packet names the newer as its
    /// target, and the older one's gate sees it.
    pub fn convict(&mut self, older: Identity, now: Mono) -> Effects {
        match self.identity(older.node).copied().filter(|newest| newest.incarnation > older.incarnation) {
            Some(newest) => {
                let mut effects = self.drive(now, |foca, effects| foca.announce(newest, effects));
                effects.packets.iter_mut().for_each(|(to, _)| *to = older);
                effects
            }
            None => Effects::default(),
        }
    }

    /// `node` did not answer something else than a probe: it is suspected as after a failed probe, and down unless it
    /// refutes that in time. Probes go round one member a second; this finds a dead one sooner.
    pub fn suspect(&mut self, node: NodeId, now: Mono) -> Effects {
        let Some(member) = self.find(node).filter(|member| member.state() == State::Alive) else {
            return Effects::default();
        };
        let (member_id, incarnation, token) = (*member.id(), member.incarnation(), self.token);
        let after = suspicion(self.scaled_to);
        self.drive(now, |foca, effects| {
            let suspected = foca::Member::new(member_id, incarnation, State::Suspect);
            foca.apply_many(std::iter::once(suspected), true, &mut *effects)?;
            effects.submit_after(Timer::ChangeSuspectToDown { member_id, incarnation, token }, after);
            Ok(())
        })
    }

    /// A packet came in. One that cannot be used changes nothing and is counted.
    pub fn handle_packet(&mut self, packet: &[u8], now: Mono) -> Effects {
        self.drive(now, |foca, effects| foca.handle_data(packet, effects))
    }

    /// Runs what is due.
    pub fn handle_timeout(&mut self, now: Mono) -> Effects {
        let mut all = Effects::default();
        while let Some(entry) = self.timers.first_entry().filter(|entry| entry.key().0 <= now) {
            let timer = entry.remove();
            if self.is_refuted(&timer) {
                continue;
            }
            let effects = self.drive(now, |foca, effects| foca.handle_timer(timer, effects));
            all.packets.extend(effects.packets);
            all.changes.extend(effects.changes);
            all.suspected.extend(effects.suspected);
        }
        all
    }

    /// Whether this is the end of a suspicion that its member refuted. foca 2.0 tells such a member that it is down all the
    /// same: it takes a new identity, hears nothing that is sent to the old one, and is suspected again for that.
    fn is_refuted(&self, timer: &Timer<Identity>) -> bool {
        match timer {
            Timer::ChangeSuspectToDown { member_id, incarnation, .. } => {
                self.find(member_id.node).is_some_and(|member| {
                    let same = member.id() == member_id && member.incarnation() == *incarnation;
                    !same || member.state() == State::Alive
                })
            }
            Timer::ProbeRandomMember(_)
            | Timer::SendIndirectProbe { .. }
            | Timer::PeriodicAnnounce(_)
            | Timer::PeriodicAnnounceDown(_)
            | Timer::PeriodicGossip(_)
            | Timer::RemoveDown(_) => false,
        }
    }

    /// When `handle_timeout` has something to do.
    pub fn poll_timeout(&self) -> Option<Mono> {
        self.timers.first_key_value().map(|((at, _), _)| *at)
    }

    fn drive(
        &mut self,
        now: Mono,
        call: impl FnOnce(&mut Foca<Identity, Codec, Rng, NoCustomBroadcast>, &mut Effects) -> Result<(), foca::Error>,
    ) -> Effects {
        let mut effects = Effects::default();
        let renewal = self.foca.identity().renewal;
        let outcome = call(&mut self.foca, &mut effects);
        if self.foca.identity().renewal != renewal {
            // foca drops its timers with the old identity and takes them up again with the next packet that comes in. Where
            // all renewed at once and the packets were lost, none ever came: nobody probed anybody any more.
            self.refused += u64::from(self.foca.apply_many(std::iter::empty(), false, &mut effects).is_err());
        }
        self.token = effects.token.unwrap_or(self.token);
        if effects.touched {
            self.up = self.foca.iter_members().map(|member| (member.id().node, *member.id())).collect();
        }
        // To a superseded process SWIM only says that it is down; it would renew itself and ask again, for ever.
        for at in 0..effects.packets.len() {
            let to = effects.packets[at].0;
            if let Some(newest) = self.identity(to.node).copied().filter(|it| it.incarnation > to.incarnation) {
                let mut named = Effects::default();
                if self.foca.announce(newest, &mut named).is_ok() {
                    effects.packets[at].1 = named.packets.swap_remove(0).1;
                }
            }
        }
        if let Err(error) = outcome {
            self.refused += 1;
            self.superseded |= is_superseded(&error);
        }
        for (timer, after) in effects.timers.drain(..) {
            self.timers_made += 1;
            self.timers.insert((now + after, self.timers_made), timer);
        }
        let members = self.foca.num_members() + 1;
        if members != self.scaled_to {
            self.scaled_to = members;
            self.foca.set_config(config(members)).expect("neither periods nor round trip change with the size");
        }
        effects
    }

    /// Who this process is; the renewal rises when it was falsely declared down.
    pub fn me(&self) -> &Identity {
        self.foca.identity()
    }

    /// What `node` is believed to be; `None`: never heard of, or forgotten.
    pub fn health(&self, node: NodeId) -> Option<Health> {
        self.find(node).map(|member| match member.state() {
            State::Alive => Health::Alive,
            State::Suspect => Health::Suspect,
            State::Down => Health::Down,
        })
    }

    /// The process of `node` that is known here. O(log members) for one that is up, else O(members).
    pub fn identity(&self, node: NodeId) -> Option<&Identity> {
        self.up.get(&node).or_else(|| self.find(node).map(foca::Member::id))
    }

    fn find(&self, node: NodeId) -> Option<&foca::Member<Identity>> {
        self.foca.iter_membership_state().find(|member| member.id().node == node)
    }

    /// Whether `node`, not oneself, is up. O(log members).
    pub fn is_up(&self, node: NodeId) -> bool {
        self.up.contains_key(&node)
    }

    /// Everybody who is up, without oneself, in `NodeId` order.
    pub fn up(&self) -> &BTreeMap<NodeId, Identity> {
        &self.up
    }

    /// Everybody heard of, down ones included, without oneself, in `NodeId` order.
    pub fn known(&self) -> Vec<NodeId> {
        let mut known: Vec<NodeId> = self.foca.iter_membership_state().map(|member| member.id().node).collect();
        known.sort_unstable();
        known
    }

    /// Packets and timers that could not be used.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Whether a packet named a newer process of this node.
    pub fn is_superseded(&self) -> bool {
        self.superseded
    }
}

fn is_superseded(error: &foca::Error) -> bool {
    match error {
        foca::Error::Decode(cause) => {
            matches!(cause.downcast_ref::<codec::CodecError>(), Some(codec::CodecError::Superseded))
        }
        _ => false,
    }
}

/// SWIM's settings for so many members (PROTOCOL §7).
fn config(members: usize) -> Config {
    const fn count(of: usize) -> NonZeroUsize {
        NonZeroUsize::new(of).expect("the settings below are not zero")
    }
    let periodic = |frequency, num_members| Some(PeriodicParams { frequency, num_members: count(num_members) });
    // An update reaches everybody with high probability after O(log n) transmissions.
    let transmissions = u8::try_from(4 + 4 * members.max(1).ilog10()).expect("a usize has at most 20 digits");
    Config {
        probe_period: Duration::from_secs(1),
        probe_rtt: Duration::from_millis(200),
        num_indirect_probes: count(3),
        max_transmissions: NonZeroU8::new(transmissions).expect("at least 4"),
        suspect_to_down_after: suspicion(members),
        remove_down_after: Some(DOWN_REMEMBERED),
        max_packet_size: count(GOSSIP_BYTES_MAX),
        notify_down_members: true,
        periodic_announce: periodic(Duration::from_secs(30), 1),
        periodic_announce_to_down_members: periodic(Duration::from_secs(20), 1),
        periodic_gossip: periodic(Duration::from_millis(200), 3),
    }
}

/// 2 s × max(1, log10 members), the logarithm linear between powers of ten: no floats, so that replays agree.
fn suspicion(members: usize) -> Duration {
    let members = u32::try_from(members).unwrap_or(u32::MAX).max(10);
    let digits = members.ilog10();
    let power = 10u32.pow(digits);
    SUSPICION * digits + SUSPICION * ((members - power) / (power / 10)) / 90
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::Hlc;
    use std::net::SocketAddr;

    fn identity(node: u128) -> Identity {
        let address = SocketAddr::from(([127, 0, 0, 1], 7000));
        Identity { node: NodeId(node), incarnation: Hlc(5), renewal: 0, address, shards: 1 }
    }

    #[test]
    fn suspicion_is_two_seconds_up_to_ten_members_and_grows_with_their_logarithm() {
        for (members, millis) in [(1, 2000), (10, 2000), (100, 4000), (1000, 6000), (4096, 6000 + 682)] {
            let got = suspicion(members).as_millis();
            assert!(got.abs_diff(millis) <= 23, "{members}: {got}");
        }
    }

    /// Found by the simulator, seed 591: after 15 s of heavy loss all nodes had renewed, and all were silent.
    #[test]
    fn a_process_that_renewed_goes_on_probing_though_its_packets_are_lost() {
        let mut a = Membership::new(identity(1), Rng::new(1));
        let mut b = Membership::new(identity(2), Rng::new(2));
        let mut to_b: Vec<Vec<u8>> = packets(a.announce(identity(2), Mono(0)));
        while let Some(packet) = to_b.pop() {
            for answer in packets(b.handle_packet(&packet, Mono(0))) {
                to_b.extend(packets(a.handle_packet(&answer, Mono(0))));
            }
        }
        assert!(a.is_up(NodeId(2)) && b.is_up(NodeId(1)));
        // B hears nothing of A, and declares it down.
        let silence = Mono(0) + Duration::from_secs(15);
        while b.poll_timeout().is_some_and(|due| due <= silence) && b.is_up(NodeId(1)) {
            let due = b.poll_timeout().expect("just seen");
            b.handle_timeout(due);
        }
        assert_eq!(b.health(NodeId(1)), Some(Health::Down));
        // A asks, is told, and renews; what it says then is lost.
        let ping = packets(a.announce(identity(2), silence));
        let told = packets(b.handle_packet(&ping[0], silence));
        a.handle_packet(&told[0], silence);
        assert_eq!(a.me().renewal, 1);
        let (mut sent, end) = (0, silence + Duration::from_secs(5));
        while let Some(due) = a.poll_timeout().filter(|due| *due <= end) {
            sent += usize::from(due > silence) * a.handle_timeout(due).packets.len();
        }
        assert!(sent > 0, "it probes on");
    }

    #[test]
    fn restored_members_are_up_and_no_news_for_others_and_a_silent_one_is_suspected_once() {
        let mut membership = Membership::new(identity(1), Rng::new(7));
        let restored = membership.restore((2..=3).map(identity), Mono(0));
        assert!(restored.packets.is_empty());
        assert_eq!(restored.changes, [Change::Up(identity(2)), Change::Up(identity(3))]);
        assert_eq!(membership.known(), [NodeId(2), NodeId(3)]);
        let mut suspected = Vec::new();
        while let Some(due) = membership.poll_timeout().filter(|due| *due <= Mono(0) + Duration::from_secs(3)) {
            suspected.extend(membership.handle_timeout(due).suspected);
        }
        suspected.sort_unstable();
        assert_eq!(suspected, [NodeId(2), NodeId(3)], "both were probed in vain, one a second");
    }

    fn packets(effects: Effects) -> Vec<Vec<u8>> {
        effects.packets.into_iter().map(|(_, packet)| packet).collect()
    }

    /// Found by `scale`: three seconds after one false suspicion others suspected the same node, which had a new identity.
    #[test]
    fn a_member_that_refutes_a_suspicion_keeps_its_identity() {
        let (mut a, mut b) = (Membership::new(identity(1), Rng::new(1)), Membership::new(identity(2), Rng::new(2)));
        let mut sent = packets(a.restore(std::iter::once(identity(2)), Mono(0)));
        sent.extend(packets(b.restore(std::iter::once(identity(1)), Mono(0))));
        assert!(sent.is_empty());
        b.suspect(NodeId(1), Mono(0));
        assert_eq!(b.health(NodeId(1)), Some(Health::Suspect));
        let end = Mono(0) + 3 * SUSPICION;
        while let Some(due) = a.poll_timeout().into_iter().chain(b.poll_timeout()).min().filter(|due| *due <= end) {
            let mut to_b = packets(a.handle_timeout(due));
            let mut to_a = packets(b.handle_timeout(due));
            while !to_a.is_empty() || !to_b.is_empty() {
                to_b.extend(to_a.drain(..).flat_map(|packet| packets(a.handle_packet(&packet, due))));
                to_a.extend(to_b.drain(..).flat_map(|packet| packets(b.handle_packet(&packet, due))));
            }
        }
        assert_eq!(b.health(NodeId(1)), Some(Health::Alive));
        assert_eq!(a.me().renewal, 0);
    }

    #[test]
    fn noise_is_counted_and_changes_nothing() {
        let mut membership = Membership::new(identity(1), Rng::new(3));
        let mut noise = Rng::new(9);
        for length in 0..1_300usize {
            let packet: Vec<u8> = (0..length).map(|_| noise.next().to_le_bytes()[0]).collect();
            let effects = membership.handle_packet(&packet, Mono(0));
            assert!(effects.packets.is_empty() && effects.changes.is_empty());
        }
        assert_eq!(membership.refused(), 1_300);
        assert!(membership.known().is_empty());
    }
}
