//! What clients of real processes asked and were told, in the simulator's words, and what its checkers say of it
//! (SIMULATION §5).
//!
//! - Time is the test's monotonic clock, from when the recorder was made; a request's line is written before its first byte
//!   leaves, a reply's after its last byte came. So what one line has before another did happen before it.
//! - Of the simulator, nothing is used but its histories and their checkers; who asks what is in `traffic`.
//! - `judge` asks every checker of histories. A test names those that must have had something to judge: a history in which
//!   nothing of that kind happened is `unknown`, which fails. Those that need sight of the nodes are not asked.
//! - The history is written to a file first, and what is judged is what the file says: `meshwork-sim check FILE` repeats it.

use meshwork_core::value::Hlc;
use meshwork_sim::{
    checkers::{CHECKERS, Finding, Verdict},
    history::{Complete, Event, HISTORY_VERSION, Header, History, Invoke, Outcome, SpaceRules},
};
use std::{
    path::PathBuf,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Instant, SystemTime, UNIX_EPOCH},
};

/// Everything that one mesh's clients were told.
pub(crate) struct Recorder {
    header: Header,
    started: Instant,
    events: Mutex<Vec<Event>>,
    next: AtomicU64,
    done: AtomicU64,
}

impl Recorder {
    /// Nothing yet. `memories`: no node will lose what it holds.
    pub(crate) fn new(source: &str, seed: u64, spaces: Vec<SpaceRules>, memories: bool) -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
        let header = Header {
            v: HISTORY_VERSION,
            source: source.to_owned(),
            seed: format!("{seed:x}"),
            commit: option_env!("MESHWORK_COMMIT").unwrap_or("unknown").to_owned(),
            spaces,
            // One machine, one clock.
            clocks: true,
            memories,
            identities: true,
            skew_max_ms: 0,
            epoch_ms: u64::try_from(wall.as_millis()).expect("fits"),
        };
        let (next, done) = (AtomicU64::new(1), AtomicU64::new(0));
        Self { header, started: Instant::now(), events: Mutex::new(Vec::new()), next, done }
    }

    fn events(&self) -> MutexGuard<'_, Vec<Event>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Times are drawn while the list is held, so that its order is that of time.
    fn record(&self, event: impl FnOnce(u64) -> Event) {
        let mut events = self.events();
        events.push(event(self.now()));
    }

    /// A number for the next request.
    pub(crate) fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// A request is about to leave.
    pub(crate) fn asked(&self, invoke: Invoke) {
        self.record(|t| Event::Invoke(Invoke { t, ..invoke }));
    }

    /// It ended like this.
    pub(crate) fn ended(&self, op: u64, outcome: Outcome, complete: Complete) {
        self.record(|t| outcome.event(Complete { t, op, ..complete }));
        self.done.fetch_add(u64::from(outcome == Outcome::Ok), Ordering::Relaxed);
    }

    /// Something was broken or mended. Of a process that starts without what its predecessor held, checkers know the words
    /// `start of P on machine M`, and `ready is P` once it holds again what it owes.
    pub(crate) fn fault(&self, what: impl Into<String>) {
        let what = what.into();
        self.record(|t| Event::Fault { t, what });
    }

    /// A part of the test begins.
    pub(crate) fn phase(&self, name: &str) {
        self.record(|t| Event::Phase { t, name: name.to_owned() });
    }

    /// A namespace is flushed by `ask`, which returns its mark. What may be gone may be so from before it was asked.
    pub(crate) fn flush(&self, ns: &str, ask: impl FnOnce() -> Hlc) -> Hlc {
        let t = self.now();
        let mark = ask();
        let mut events = self.events();
        let at = events.partition_point(|event| event.t() < t);
        events.insert(at, Event::Flush { t, ns: ns.to_owned(), mark });
        mark
    }

    /// Microseconds since the recorder was made.
    pub(crate) fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).expect("a test is short")
    }

    /// Requests that were done so far.
    pub(crate) fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// All of it, so far.
    pub(crate) fn history(&self) -> History {
        History { header: self.header.clone(), events: self.events().clone() }
    }
}

/// What the checkers said.
#[derive(Debug)]
pub(crate) struct Judgement {
    /// What is broken, by the checker that found it.
    pub(crate) findings: Vec<(&'static str, Finding)>,
    /// Checkers without anything to judge, and what they missed.
    pub(crate) idle: Vec<(&'static str, &'static str)>,
    /// Checkers that judged and found nothing.
    pub(crate) content: Vec<&'static str>,
}

impl Judgement {
    /// Asks every checker of histories.
    pub(crate) fn of(history: &History) -> Self {
        let mut judgement = Self { findings: Vec::new(), idle: Vec::new(), content: Vec::new() };
        for (name, checker) in CHECKERS {
            match checker(history) {
                Verdict::Valid => judgement.content.push(name),
                Verdict::Invalid(finding) => judgement.findings.push((name, finding)),
                Verdict::Unknown(why) => judgement.idle.push((name, why)),
            }
        }
        judgement
    }

    /// # Errors
    /// Words for a person: what is broken, or which of the checkers in `asked` had nothing to judge.
    pub(crate) fn stands(&self, asked: &[&str]) -> Result<(), String> {
        let all: Vec<&str> = CHECKERS.iter().map(|(name, _)| *name).collect();
        assert!(asked.iter().all(|name| all.contains(name)), "asked are {asked:?}, there are {all:?}");
        let broken = self.findings.iter().map(|(name, finding)| format!("{name}: INVALID {finding}"));
        let idle = self.idle.iter().filter(|(name, _)| asked.contains(name));
        let said: Vec<String> = broken.chain(idle.map(|(name, why)| format!("{name}: UNKNOWN: {why}"))).collect();
        if said.is_empty() { Ok(()) } else { Err(said.join("\n")) }
    }
}

/// Where the history of the test called `name` is kept.
fn place(name: &str) -> PathBuf {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("histories");
    std::fs::create_dir_all(&directory).expect("a directory for tests' files");
    directory.join(format!("{name}.jsonl"))
}

/// Keeps a history and judges it: nothing may be broken, and the checkers in `asked` must have had something to judge.
#[track_caller]
pub(crate) fn judge(history: &History, asked: &[&str]) -> History {
    let file = place(&history.header.source);
    std::fs::write(&file, history.to_jsonl()).expect("a file for this test");
    let text = std::fs::read_to_string(&file).expect("it was just written");
    let kept = History::from_jsonl(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let judgement = Judgement::of(&kept);
    println!("history: {} ({} lines)", file.display(), kept.events.len() + 1);
    println!("asked and content: {:?}; with nothing to judge: {:?}", judgement.content, judgement.idle);
    println!("not asked, they need sight of the nodes: sight replicas bounds hints layout");
    if let Err(words) = judgement.stands(asked) {
        let again = format!("cargo run --release -p meshwork-sim -- check {}", file.display());
        panic!("{words}\nrepro: {again}\n{}", around(&kept, &judgement));
    }
    kept
}

/// The operations in findings, line by line.
fn around(history: &History, judgement: &Judgement) -> String {
    let named: Vec<u64> = judgement.findings.iter().flat_map(|(_, finding)| finding.ops.iter().copied()).collect();
    let of = |event: &&Event| match event {
        Event::Invoke(invoke) => named.contains(&invoke.op),
        Event::Ok(complete) | Event::Fail(complete) | Event::Maybe(complete) => named.contains(&complete.op),
        Event::Fault { .. } | Event::Founded { .. } | Event::Phase { .. } => !named.is_empty(),
        Event::Flush { .. } | Event::Created { .. } => !named.is_empty(),
    };
    let lines = history.events.iter().filter(of).map(|event| serde_json::to_string(event).expect("JSON has it all"));
    lines.collect::<Vec<_>>().join("\n")
}
