//! The two tasks of a mesh: one keeps the table of routes fresh, one ends attempts that are due.
//!
//! Both hold the mesh weakly: the last handle's drop ends them. The keeper dials seeds until some node welcomes the
//! client, installs layouts that links bring, and asks for a newer one when answers show that there is one (or every
//! 10 s, to learn who is down). The sweep ticks each 5 ms while calls are in flight, in place of one timer per call.

use crate::{
    Error, ErrorKind, Payload,
    call::{self, Call},
    dial::Dialer,
    mesh::{Inner, MeshState},
    news::{Facts, News},
    router::{Links, Table},
    slots::Body,
};
use meshwork_core::wire::control::{ClientControl, ControlReply};
use meshwork_transport::IdentityWatch;
use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{Arc, PoisonError, Weak, atomic::Ordering},
    time::Duration,
};

const SWEEP_EVERY: Duration = Duration::from_millis(5);
/// Sweeps without a call in flight before the sweep sleeps.
const QUIET_SWEEPS: u32 = 200;
const REFRESH_EVERY: Duration = Duration::from_secs(10);
/// Between two tries to reach seeds or learn of a first layout.
const RETRY_EVERY: Duration = Duration::from_millis(200);
/// Between two refreshes, however many answers ask for one.
const REFRESH_PAUSE: Duration = Duration::from_millis(50);
/// Members up to which all links are made at once.
const EAGER_NODES_MAX: usize = 16;
/// Addresses of seeds that are dialled at a time.
const SEED_LINKS_MAX: usize = 16;

/// Ends attempts that are due.
pub(crate) async fn sweep(mesh: Weak<Inner>, news: Arc<News>) {
    let mut wakers = Vec::new();
    loop {
        news.busy.notified().await;
        let mut quiet = 0;
        loop {
            tokio::time::sleep(SWEEP_EVERY).await;
            let Some(mesh) = mesh.upgrade() else { return };
            let now = mesh.dialer.clock.now();
            let mut probing = false;
            for connection in mesh.connections() {
                probing |= connection.sweep(now, &mut wakers);
            }
            let idle = !probing && mesh.in_flight.load(Ordering::SeqCst) == 0;
            quiet = if idle { quiet + 1 } else { 0 };
            if quiet > QUIET_SWEEPS {
                mesh.swept.store(false, Ordering::SeqCst);
                // A call that began in between saw the sweep awake and did not wake it.
                if mesh.in_flight.load(Ordering::SeqCst) == 0 || mesh.swept.swap(true, Ordering::SeqCst) {
                    break;
                }
                quiet = 0;
            }
        }
    }
}

/// Keeps the table fresh.
pub(crate) async fn keep(mesh: Weak<Inner>, news: Arc<News>) {
    let mut asked_first = 0;
    loop {
        let Some(strong) = mesh.upgrade() else { return };
        let facts = news.take();
        let stale = facts.stale;
        strong.learn(facts);
        let wait = if strong.table.load().is_none() {
            strong.reach_seeds().await;
            RETRY_EVERY
        } else {
            REFRESH_EVERY
        };
        if stale || strong.table.load().is_none() {
            asked_first += 1;
            strong.refresh(asked_first).await;
        }
        let settled = strong.table.load().is_some();
        drop(strong);
        if settled {
            tokio::time::sleep(REFRESH_PAUSE).await;
        }
        if tokio::time::timeout(wait, news.changed.notified()).await.is_err() {
            news.stale();
        }
    }
}

impl Inner {
    fn learn(&self, facts: Facts) {
        if let Some(value_max) = facts.value_max {
            self.value_max.store(value_max as usize, Ordering::Relaxed);
        }
        if let Some(routing) = facts.routing {
            let newer = (**self.table.load()).as_ref().is_none_or(|table| table.name().epoch < routing.layout.epoch);
            if newer {
                self.install(routing);
            }
        }
        if facts.welcomed {
            self.welcomed.store(true, Ordering::Relaxed);
            if self.table.load().is_none() {
                self.tell(MeshState::NoLayout);
            }
        }
    }

    pub(crate) fn install(&self, routing: meshwork_core::wire::hello::Routing) {
        if let Some(identity) = &*self.dialer.identity.read().unwrap_or_else(PoisonError::into_inner)
            && identity.cluster_id() != routing.cluster
        {
            tracing::warn!("a node sent the layout of another cluster: ignored");
            return;
        }
        let before = self.table.load();
        let local = self.dialer.local.as_ref().map(|local| (local.node(), local.shards().max(1)));
        if before.as_ref().as_ref().is_some_and(|table| table.routing == routing) {
            return;
        }
        let table = Table::new(routing, before.as_ref().as_ref(), self.zone.as_deref(), local);
        let (epoch, nodes) = (table.name().epoch, table.len());
        tracing::debug!(epoch, nodes, "layout");
        // Before the first calls need them: a handshake costs milliseconds. Large meshes are dialled on demand.
        if nodes <= EAGER_NODES_MAX {
            table.links(self).for_each(|link| link.want());
        }
        self.epoch.store(epoch, Ordering::Relaxed);
        self.table.store(Arc::new(Some(table)));
        self.tell(MeshState::Connected { epoch, nodes });
    }

    /// Resolves and dials seeds; the node in this process needs neither.
    async fn reach_seeds(&self) {
        if let Some(local) = &self.dialer.local {
            for shard in 0..local.shards().max(1) {
                self.local(shard).want();
            }
            self.welcomed.store(true, Ordering::Relaxed);
            if let Some(routing) = local.routing() {
                self.install(routing);
            }
            return;
        }
        let mut found: BTreeSet<SocketAddr> = BTreeSet::new();
        for seed in &self.seeds {
            match tokio::time::timeout(self.profile.dial, tokio::net::lookup_host(seed.as_str())).await {
                Ok(Ok(addresses)) => found.extend(addresses),
                Ok(Err(error)) => {
                    self.note(Error::new(ErrorKind::Connect, format!("the seed {seed:?} cannot be resolved: {error}")))
                }
                Err(_) => {
                    self.note(Error::new(ErrorKind::Connect, format!("resolving the seed {seed:?} took too long")))
                }
            }
        }
        let links: Vec<_> = found.into_iter().take(SEED_LINKS_MAX).map(|address| self.remote(address)).collect();
        for link in &links {
            link.want();
        }
        if !links.is_empty() {
            self.seed_links.store(Arc::new(links));
        }
    }

    /// Asks some node for its routing.
    async fn refresh(self: &Arc<Self>, turn: usize) {
        if let Some(local) = &self.dialer.local {
            if let Some(routing) = local.routing() {
                self.install(routing);
            }
            return;
        }
        let up: Vec<_> = self.connections().into_iter().filter(|link| link.is_up() && !link.avoided()).collect();
        let Some(link) = (!up.is_empty()).then(|| up[turn % up.len()].clone()) else { return };
        let ask = Payload::Control(ClientControl::Routing);
        let call: Call<'_, [u8; 0], [u8; 0]> = Call::to(self, link, ask, call::CONTROL_LIMIT);
        if let Ok((answer, _)) = call.await
            && let Body::Control(reply) = answer.body
            && let ControlReply::Routing(Some(routing)) = *reply
        {
            let known = self.table.load().as_ref().as_ref().map_or(0, |table| table.name().epoch);
            if routing.layout.epoch >= known {
                self.install(*routing);
            }
        }
    }
}

/// Uses certificate files anew when they change; links that exist keep theirs.
pub(crate) async fn watch_files(mut watch: IdentityWatch, dialer: Arc<Dialer>) {
    loop {
        let identity = watch.changed().await;
        *dialer.identity.write().unwrap_or_else(PoisonError::into_inner) = Some(identity);
    }
}
