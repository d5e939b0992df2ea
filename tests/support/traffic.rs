//! Clients that never rest while a test breaks their mesh: what they ask, how they wait, and what is written down of it.
//!
//! Each session asks one node at a time, on a link of its own, and waits: every attempt is one operation of the history and
//! there are no hidden retries. A session that got no answer gives its link up, so that no late reply meets another request,
//! and leaves that node alone for a while. Written independently of the simulator's workload (SIMULATION §8).
//!
//! Keys come in families, because checkers conclude from absence: `kept` is only ever written, so a miss is a loss;
//! `gone` is deleted too; `timed` is written with an expiry or without one; `brief` is a namespace whose writes expire.
//! Values name their operation and prove that they are whole.

use super::{
    history::Recorder,
    mesh::{Mesh, Papers},
    raw::{Answer, Raw, reply_in},
    wait::{soon, wait_until},
};
use meshwork_core::{
    namespace::Mode,
    rng::Rng,
    wire::client::{Condition, Consistency, Op, Quorum, ReplyBody, Status, Ttl},
};
use meshwork_sim::history::{Complete, History, Invoke, Outcome, SpaceRules};
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};
use tokio::time::{MissedTickBehavior, interval, timeout};

/// Namespaces for a plan's `tables`: nothing is evicted, so that nothing may vanish without a word.
pub(crate) const TABLES: &str = "[[namespace]]\nname = \"lasting\"\neviction = \"none\"\n\
    [[namespace]]\nname = \"brief\"\neviction = \"none\"\nttl_default = 1500\n";
const BRIEF_MS: u64 = 1500;

/// Sessions of one test.
const SESSIONS: u32 = 6;
/// A session asks so often, at most: two cores run several meshes.
const BEAT: Duration = Duration::from_millis(15);
/// Far more than a request needs: a busy machine is no refusal.
const DEADLINE_MS: u32 = 3000;
/// A session waits so long for a reply: longer than its deadline.
const PATIENCE: Duration = Duration::from_millis(3500);
/// And so long for a link.
const LINK_PATIENCE: Duration = Duration::from_secs(1);
/// Whom it got no answer from, it leaves alone for so long.
const SHUNNED: Duration = Duration::from_secs(2);

/// Keys of each family.
const KEYS: u64 = 6;

fn spaces() -> Vec<SpaceRules> {
    let ack = meshwork_core::namespace::Ack::Mem;
    let space =
        |name: &str, ttl_default_ms| SpaceRules { name: name.to_owned(), n: 3, eviction: false, ttl_default_ms, ack };
    vec![space("lasting", None), space("brief", Some(BRIEF_MS))]
}

/// The bytes that operation `op` writes to `key`.
fn value_of(op: u64, key: &str, length: usize) -> Vec<u8> {
    let head = format!("{op} {key} {length} ");
    let mut filler = Rng::new(op);
    let rest = length.saturating_sub(head.len());
    head.into_bytes().into_iter().chain((0..rest).map(|_| (filler.next() & 0xff) as u8)).collect()
}

/// The operation that wrote these bytes to `key`, if they are whole.
fn writer_of(value: &[u8], key: &str) -> Option<u64> {
    let mut words = value.splitn(4, |byte| *byte == b' ').map(|word| std::str::from_utf8(word).ok());
    let op = words.next()??.parse().ok()?;
    let (_, length) = (words.next()??, words.next()??.parse().ok()?);
    (value_of(op, key, length) == value).then_some(op)
}

/// What is asked next.
#[derive(Clone, Debug)]
struct Ask {
    space: &'static str,
    key: String,
    act: Act,
    strict: bool,
    r: u8,
    w: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Get,
    /// `None`: as the namespace says.
    Put {
        length: usize,
        ttl_ms: Option<u64>,
    },
    Delete,
}

impl Ask {
    /// A read of R = 2.
    fn read(space: &'static str, key: String, strict: bool) -> Self {
        Self { space, key, act: Act::Get, strict, r: 2, w: 2 }
    }

    fn draw(rng: &mut Rng) -> Self {
        let family = rng.below(8);
        let number = rng.below(KEYS);
        let (space, family) = match family {
            0..4 => ("lasting", "kept"),
            4..6 => ("lasting", "gone"),
            6 => ("lasting", "timed"),
            _ => ("brief", "brief"),
        };
        // A large one now and then: readers then ask for digests, and streams are cut into many packets.
        let length = if rng.below(20) == 0 { 4500 + rng.below(4000) } else { 30 + rng.below(600) };
        let length = usize::try_from(length).expect("a value is small");
        let ttl_ms = (family == "timed" && rng.below(3) > 0).then(|| 200 + rng.below(2500));
        let act = match (rng.below(10), family) {
            (0..5, _) => Act::Get,
            (5..7, "gone") => Act::Delete,
            (_, _) => Act::Put { length, ttl_ms },
        };
        // Most quorums overlap; some do not, and promise less.
        let (r, w) = [(2, 2), (2, 2), (2, 2), (1, 3), (1, 1)][usize::try_from(rng.below(5)).expect("below five")];
        Self { space, key: format!("{family}-{number}"), act, strict: rng.below(2) == 0, r, w }
    }

    /// A write of W = 2, stand-ins allowed, of a key that nobody writes again.
    fn cold(number: u64) -> Self {
        let act = Act::Put { length: 200, ttl_ms: None };
        Self { act, ..Self::read("lasting", format!("cold-{number}"), false) }
    }

    fn all_keys() -> impl Iterator<Item = (&'static str, String)> {
        let families = [("lasting", "kept"), ("lasting", "gone"), ("lasting", "timed"), ("brief", "brief")];
        families.into_iter().flat_map(|(space, family)| (0..KEYS).map(move |key| (space, format!("{family}-{key}"))))
    }
}

/// What the test knows of a node: which writes it must serve now (L8).
#[derive(Debug, Default)]
struct Duty {
    strict: AtomicBool,
    sloppy: AtomicBool,
}

struct Shared {
    recorder: Recorder,
    nodes: Vec<SocketAddr>,
    duties: Vec<Duty>,
    papers: Papers,
    stop: AtomicBool,
}

/// Sessions at work, on a thread of their own.
pub(crate) struct Traffic {
    shared: Arc<Shared>,
    seed: u64,
    /// Keys written once, before the sessions began.
    cold: u64,
    thread: Option<JoinHandle<()>>,
}

impl Traffic {
    /// Begins to ask the nodes of a mesh, after `cold` keys were written that nobody writes again. `source`: the test's
    /// name; `memories`: no node will lose what it holds.
    pub(crate) fn start(mesh: &Mesh, source: &str, seed: u64, memories: bool, cold: u64) -> Self {
        let shared = Arc::new(Shared {
            recorder: Recorder::new(source, seed, spaces(), memories),
            nodes: mesh.nodes.iter().map(|node| node.address).collect(),
            duties: mesh.nodes.iter().map(|_| Duty::default()).collect(),
            papers: mesh.client.clone(),
            stop: AtomicBool::new(false),
        });
        let session = |id: u32| Session::new(id, Rng::fork(seed, &format!("session {id}")), Arc::clone(&shared));
        let first = session(0);
        on_runtime(async {
            soon("the namespaces of all nodes' configuration", first.meet_namespaces()).await;
            first.write_cold(cold).await;
        });
        let sessions: Vec<Session> = (1..=SESSIONS).map(session).collect();
        let work = move || {
            on_runtime(async {
                let tasks: Vec<_> =
                    sessions.into_iter().map(|session| tokio::task::spawn_local(session.work())).collect();
                for task in tasks {
                    task.await.expect("a session does not panic");
                }
            });
        };
        let thread = std::thread::Builder::new().name("traffic".to_owned()).spawn(work).expect("a thread");
        Self { shared, seed, cold, thread: Some(thread) }
    }

    /// What is written down, for faults and phases.
    pub(crate) fn recorder(&self) -> &Recorder {
        &self.shared.recorder
    }

    /// From now on these nodes must serve every write of this mode; the others need not.
    pub(crate) fn must_serve(&self, mode: Mode, nodes: &[usize]) {
        for (number, duty) in self.shared.duties.iter().enumerate() {
            let flag = match mode {
                Mode::Strict => &duty.strict,
                Mode::Sloppy => &duty.sloppy,
            };
            flag.store(nodes.contains(&number), Ordering::Relaxed);
        }
    }

    /// Waits until so many more requests are done.
    pub(crate) fn goes_on(&self, more: u64) {
        let recorder = self.recorder();
        let enough = recorder.done() + more;
        wait_until(&format!("{more} more requests to be done"), || recorder.done() >= enough);
    }

    /// Ends the sessions. Then reads every key from every node, strict and sloppy; the history.
    pub(crate) fn end(mut self) -> History {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.thread.take().expect("it ends once").join().expect("the sessions ended well");
        self.recorder().phase("read");
        let reader = Session::new(0, Rng::fork(self.seed, "reader"), Arc::clone(&self.shared));
        on_runtime(reader.read_all(self.cold));
        self.recorder().history()
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // The test has failed already, and says why.
            let _ = thread.join();
        }
    }
}

fn on_runtime(work: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    tokio::task::LocalSet::new().block_on(&runtime, work);
}

/// One client.
struct Session {
    id: u32,
    rng: Rng,
    links: Vec<Option<Raw>>,
    shunned: Vec<Option<Instant>>,
    shared: Arc<Shared>,
}

impl Session {
    fn new(id: u32, rng: Rng, shared: Arc<Shared>) -> Self {
        let links = shared.nodes.iter().map(|_| None).collect();
        let shunned = shared.nodes.iter().map(|_| None).collect();
        Self { id, rng, links, shunned, shared }
    }

    async fn work(mut self) {
        let mut beat = interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !self.shared.stop.load(Ordering::Relaxed) {
            beat.tick().await;
            let nodes = u64::try_from(self.links.len()).expect("few");
            let node = usize::try_from(self.rng.below(nodes)).expect("few");
            if self.shunned[node].is_some_and(|until| Instant::now() < until) {
                continue;
            }
            let ask = Ask::draw(&mut self.rng);
            // What came of it is written down, and nothing is repeated.
            let _ = self.ask(node, &ask).await;
        }
    }

    /// Nodes may be ready a moment before the namespaces of their configuration are there.
    async fn meet_namespaces(&self) {
        let mut beat = interval(BEAT);
        for address in &self.shared.nodes {
            let mut link = Raw::open(*address, &self.shared.papers).await.expect("all are ready");
            for space in spaces() {
                let unknown = |answer: Answer| answer.status == Status::NoSuchNamespace;
                while unknown(
                    link.ask_in(&space.name, b"kept-0", Op::Get, Default::default()).await.expect("an answer"),
                ) {
                    beat.tick().await;
                }
            }
        }
    }

    async fn write_cold(mut self, count: u64) {
        let nodes = self.links.len();
        for (number, node) in (0..count).zip((0..nodes).cycle()) {
            self.ask_until_done(node, &Ask::cold(number)).await;
        }
    }

    async fn read_all(mut self, cold: u64) {
        let nodes = self.links.len();
        for (number, node) in (0..cold).zip((0..nodes).cycle()) {
            self.ask_until_done(node, &Ask { act: Act::Get, ..Ask::cold(number) }).await;
        }
        for (space, key) in Ask::all_keys() {
            for node in 0..self.links.len() {
                self.ask(node, &Ask::read(space, key.clone(), true)).await;
                self.ask_until_done(node, &Ask::read(space, key.clone(), false)).await;
            }
        }
    }

    /// Asks a node again and again until it is done.
    async fn ask_until_done(&mut self, node: usize, ask: &Ask) {
        let done = async { while self.ask(node, ask).await != Some(Outcome::Ok) {} };
        soon(&format!("{ask:?} of node {node}"), done).await;
    }

    /// Asks a node and writes down what was said; how it ended. Without a link nothing is asked.
    async fn ask(&mut self, node: usize, ask: &Ask) -> Option<Outcome> {
        let mut link = match self.links[node].take() {
            Some(link) => link,
            None => match timeout(LINK_PATIENCE, Raw::open(self.shared.nodes[node], &self.shared.papers)).await {
                Ok(Ok(link)) => link,
                Ok(Err(_)) | Err(_) => {
                    self.shunned[node] = Some(Instant::now() + SHUNNED);
                    return None;
                }
            },
        };
        let recorder = &self.shared.recorder;
        let op = recorder.number();
        let writes = ask.act != Act::Get;
        recorder.asked(self.invoke(op, node, ask));
        let value;
        let sent = match ask.act {
            Act::Get => Op::Get,
            Act::Put { length, ttl_ms } => {
                value = value_of(op, &ask.key, length);
                let ttl = ttl_ms.map_or(Ttl::Default, Ttl::Millis);
                Op::Put { value: &value, ttl, condition: Condition::Always }
            }
            Act::Delete => Op::Delete { condition: Condition::Always },
        };
        let mode = if ask.strict { Mode::Strict } else { Mode::Sloppy };
        let consistency = Consistency { read: Quorum::Exactly(ask.r), write: Quorum::Exactly(ask.w), mode: Some(mode) };
        let answer = link.reply_to(DEADLINE_MS, ask.space, ask.key.as_bytes(), sent, consistency);
        let lost = |status: &str| Complete { status: status.to_owned(), ..Complete::default() };
        let (outcome, complete) = match timeout(PATIENCE, answer).await {
            Ok(Ok(frame)) => {
                self.links[node] = Some(link);
                let reply = reply_in(&frame).expect("nodes send whole replies");
                let mut complete = Complete::of(&reply);
                if let ReplyBody::Value { value, .. } = reply.body {
                    complete.value = writer_of(value, &ask.key);
                    complete.torn = complete.value.is_none();
                }
                (Outcome::of(&reply, writes), complete)
            }
            Ok(Err(_)) => (Outcome::unanswered(writes), lost("link lost")),
            Err(_) => {
                self.shunned[node] = Some(Instant::now() + SHUNNED);
                (Outcome::unanswered(writes), lost("no answer"))
            }
        };
        self.shared.recorder.ended(op, outcome, complete);
        Some(outcome)
    }

    fn invoke(&self, op: u64, node: usize, ask: &Ask) -> Invoke {
        let (f, arg, ttl_ms) = match ask.act {
            Act::Get => ("get", None, None),
            Act::Put { ttl_ms, .. } => ("put", Some(op), ttl_ms),
            Act::Delete => ("delete", None, None),
        };
        let duty = &self.shared.duties[node];
        let duty = if ask.strict { &duty.strict } else { &duty.sloppy };
        // Of three owners one may be away: W = 3 cannot be had then.
        let must = ask.act != Act::Get && ask.w <= 2 && duty.load(Ordering::Relaxed);
        Invoke {
            op,
            session: self.id,
            node: u32::try_from(node).expect("few"),
            f: f.to_owned(),
            ns: ask.space.to_owned(),
            key: ask.key.clone(),
            arg,
            ttl_ms,
            r: ask.r,
            w: ask.w,
            strict: ask.strict,
            deadline_ms: DEADLINE_MS,
            must,
            ..Invoke::default()
        }
    }
}
