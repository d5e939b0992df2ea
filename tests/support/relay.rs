//! A relay between nodes, in user space: it delays, reorders, duplicates, loses and cuts, each direction by itself.
//!
//! Every node has a front: the address that it advertises. What node A sends to B's front is passed on to B from A's
//! front, so that B knows A by the address that A advertises and its answers take the same way. Datagrams are QUIC's and
//! encrypted: the relay sees none of what it breaks, and needs no rights. Clients go to the nodes directly.
//!
//! Who is cut, and how bad the ways are, is asked for each datagram when it comes: a cut loses at once what a network
//! would have lost. Delays are drawn apart for each datagram, which is what reorders them. Drawn from a fixed seed, but
//! when datagrams come is the machine's business: a test may rely on nothing but what it waits for.

use meshwork_core::rng::Rng;
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    net::UdpSocket,
    sync::{mpsc, oneshot},
    time::Instant,
};

/// Datagrams on their way that the relay holds; more are lost, as in any router.
const HELD_MAX: usize = 4096;

/// How bad all ways are.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Weather {
    /// Each datagram takes up to this much longer, drawn for it alone.
    pub(crate) delay_max: Duration,
    /// So many of a thousand are lost.
    pub(crate) lost: u64,
    /// So many of a thousand come twice.
    pub(crate) doubled: u64,
}

/// What it did so far, in datagrams.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    /// Delivered.
    pub(crate) passed: u64,
    /// Delivered after one that came later on the same way.
    pub(crate) reordered: u64,
    /// Delivered twice.
    pub(crate) doubled: u64,
    /// Lost by the weather.
    pub(crate) lost: u64,
    /// Lost by a cut.
    pub(crate) cut: u64,
}

#[derive(Debug, Default)]
struct Rules {
    weather: Weather,
    /// Ways, from and to, on which nothing passes.
    cut: BTreeSet<(usize, usize)>,
    tally: Tally,
}

/// The relay; what it holds is gone when it is dropped.
pub(crate) struct Relay {
    fronts: Vec<SocketAddr>,
    rules: Arc<Mutex<Rules>>,
    thread: Option<std::thread::JoinHandle<()>>,
    stop: Option<oneshot::Sender<()>>,
}

impl Relay {
    /// A relay before nodes that listen at `backs`.
    pub(crate) fn start(backs: Vec<SocketAddr>) -> Self {
        let bind = |_: &SocketAddr| std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let sockets: Vec<_> = backs.iter().map(bind).collect();
        let fronts = sockets.iter().map(|socket| socket.local_addr().expect("it is bound")).collect();
        let rules = Arc::new(Mutex::new(Rules::default()));
        let (stop, stopped) = oneshot::channel();
        let ruled = Arc::clone(&rules);
        let pass = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(pass(sockets, backs, ruled, stopped));
        };
        let thread = std::thread::Builder::new().name("relay".to_owned()).spawn(pass).expect("a thread");
        Self { fronts, rules, thread: Some(thread), stop: Some(stop) }
    }

    /// The address at which the others reach a node.
    pub(crate) fn front(&self, node: usize) -> SocketAddr {
        self.fronts[node]
    }

    /// Sets how bad all ways are.
    pub(crate) fn weather(&self, weather: Weather) {
        locked(&self.rules).weather = weather;
    }

    /// Nothing passes from `from` to `to` any more; the other direction goes on.
    pub(crate) fn cut(&self, from: usize, to: usize) {
        assert!(from != to && from.max(to) < self.fronts.len(), "a way leads from one node to another");
        locked(&self.rules).cut.insert((from, to));
    }

    /// Nothing passes between `node` and all others any more.
    pub(crate) fn isolate(&self, node: usize) {
        for other in (0..self.fronts.len()).filter(|other| *other != node) {
            self.cut(node, other);
            self.cut(other, node);
        }
    }

    /// All ways are whole again.
    pub(crate) fn heal(&self) {
        locked(&self.rules).cut.clear();
    }

    /// What it did so far.
    pub(crate) fn tally(&self) -> Tally {
        locked(&self.rules).tally
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // Its thread ends once the sender is gone.
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A relay that panicked has failed its test by what no longer passes.
            let _ = thread.join();
        }
    }
}

fn locked(rules: &Mutex<Rules>) -> MutexGuard<'_, Rules> {
    rules.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A datagram on its way: earliest first, then as they came.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Held {
    due: Instant,
    nth: u64,
    from: usize,
    to: usize,
    bytes: Vec<u8>,
}

async fn pass(
    sockets: Vec<std::net::UdpSocket>,
    backs: Vec<SocketAddr>,
    rules: Arc<Mutex<Rules>>,
    mut stopped: oneshot::Receiver<()>,
) {
    let own = |socket: std::net::UdpSocket| {
        socket.set_nonblocking(true).expect("a socket can");
        Arc::new(UdpSocket::from_std(socket).expect("inside a runtime"))
    };
    let sockets: Vec<Arc<UdpSocket>> = sockets.into_iter().map(own).collect();
    let (came, mut arrivals) = mpsc::channel(HELD_MAX);
    for (to, socket) in sockets.iter().enumerate() {
        let (socket, came, backs) = (Arc::clone(socket), came.clone(), backs.clone());
        tokio::spawn(async move {
            let mut buffer = vec![0; 1 << 16];
            loop {
                // An error here is an earlier datagram's: nobody listened. A receiver without socket would not go on.
                let Ok((length, source)) = socket.recv_from(&mut buffer).await else { continue };
                // Whoever is no node of this mesh has nothing to ask here.
                let Some(from) = backs.iter().position(|back| *back == source) else { continue };
                if came.send((from, to, buffer[..length].to_vec())).await.is_err() {
                    return;
                }
            }
        });
    }
    let mut rng = Rng::new(20_261_121);
    let mut held: BinaryHeap<Reverse<Held>> = BinaryHeap::new();
    let mut newest: BTreeMap<(usize, usize), u64> = BTreeMap::new();
    let mut nth = 0;
    loop {
        let next = held.peek().map(|Reverse(first)| first.due);
        tokio::select! {
            _ = &mut stopped => return,
            arrival = arrivals.recv() => {
                let Some((from, to, bytes)) = arrival else { return };
                let copies = admit(&rules, &mut rng, (from, to));
                for delay in copies.into_iter().flatten().take(HELD_MAX.saturating_sub(held.len())) {
                    nth += 1;
                    held.push(Reverse(Held { due: Instant::now() + delay, nth, from, to, bytes: bytes.clone() }));
                }
            }
            () = until(next) => {}
        }
        while held.peek().is_some_and(|Reverse(first)| first.due <= Instant::now()) {
            let Some(Reverse(one)) = held.pop() else { break };
            // Lost where nobody listens, as datagrams are.
            let _ = sockets[one.from].send_to(&one.bytes, backs[one.to]).await;
            let last = newest.entry((one.from, one.to)).or_default();
            let mut rules = locked(&rules);
            rules.tally.passed += 1;
            rules.tally.reordered += u64::from(one.nth < *last);
            *last = one.nth.max(*last);
        }
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// The delays of the copies in which a datagram goes on: one as a rule, none when it is lost, two when it is doubled.
fn admit(rules: &Mutex<Rules>, rng: &mut Rng, way: (usize, usize)) -> [Option<Duration>; 2] {
    let mut rules = locked(rules);
    if rules.cut.contains(&way) {
        rules.tally.cut += 1;
        return [None, None];
    }
    let weather = rules.weather;
    if rng.below(1000) < weather.lost {
        rules.tally.lost += 1;
        return [None, None];
    }
    let micros = u64::try_from(weather.delay_max.as_micros()).expect("a delay is short");
    let mut delay = || Duration::from_micros(rng.below(micros + 1));
    let (first, second) = (delay(), delay());
    let second = (rng.below(1000) < weather.doubled).then_some(second);
    rules.tally.doubled += u64::from(second.is_some());
    [Some(first), second]
}
