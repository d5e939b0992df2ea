//! One client of a run: a thread with its own runtime and mesh, and its slots: calls in flight, one task each.
//!
//! A slot makes call after call and reads the clock once a call: the end of one is the begin of the next. It is the
//! processor's own (`quanta`): the kernel's cost a tenth of what a local hit does. Nothing is spawned and nothing allocated per call. In an open loop a pacer hands out tickets at their intended times, and a
//! latency counts from there, however late a slot was free ("coordinated omission" is thus counted, not hidden).

use super::{
    ledger::{Findings, Ledger},
    pacer::Tickets,
    plan::Plan,
    report::Tally,
    workload::{Draws, Key, Op, Values},
    zipf::Zipf,
};
use meshwork_client::{Error, Mesh, Namespace};
use meshwork_core::rng::Rng;
use quanta::Instant;
use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::Barrier,
    task::{JoinSet, LocalSet},
};

/// What all clients of a run share.
pub(crate) struct Shared {
    /// What to do.
    pub(crate) plan: Plan,
    /// All clients begin each phase together.
    pub(crate) barrier: Barrier,
    /// Somebody wants to stop.
    pub(crate) interrupted: AtomicBool,
    /// Calls answered so far, each client's own: for progress only, some milliseconds old.
    pub(crate) progress: Vec<AtomicU64>,
}

/// What one client found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Of the measured phase; failures of all phases.
    pub(crate) tally: Tally,
    /// How long the measured phase was.
    pub(crate) measured: Duration,
    /// Keys loaded.
    pub(crate) loaded: u64,
    /// How long that took.
    pub(crate) loading: Duration,
    /// Attempts beyond each call's first.
    pub(crate) retries: u64,
    /// Calls due and never begun.
    pub(crate) behind: u64,
    /// Of `--verify`.
    pub(crate) findings: Findings,
}

/// After a failed call a slot waits: a mesh that refuses at once must not be hammered by a tight loop.
const AFTER_FAILURE: Duration = Duration::from_millis(2);
/// How often progress is published.
const PROGRESS: Duration = Duration::from_millis(100);
/// Runs one client from connecting to its findings.
pub(crate) async fn run(mesh: Mesh, number: u64, shared: Arc<Shared>) -> Found {
    let slots = Rc::new(Slots::new(&mesh, number, shared.clone()));
    let local = LocalSet::new();
    let mut found = Found::default();
    let work = async {
        let progress = tokio::task::spawn_local(publish(slots.clone(), number));
        let mut ledgers = slots.ledgers();
        if slots.shared.plan.load {
            slots.shared.barrier.wait().await;
            let begun = Instant::now();
            ledgers = slots.each(ledgers, |slots, slot, ledger| slots.load(slot, ledger)).await;
            found.loading = begun.elapsed();
            found.loaded = slots.tally.borrow().answers();
        }
        slots.tally.borrow_mut().restart();
        slots.shared.barrier.wait().await;
        if !slots.shared.plan.measure.is_zero() {
            let begun = Instant::now();
            slots.begin(begun);
            let pacer = slots.tickets.is_some().then(|| tokio::task::spawn_local(pace(slots.clone())));
            ledgers = slots.each(ledgers, |slots, slot, ledger| slots.measure(slot, ledger)).await;
            if let Some(pacer) = pacer {
                pacer.abort();
            }
            found.measured = Instant::now().min(slots.end.get()).saturating_duration_since(slots.measured_from.get());
            found.behind = slots.behind();
        }
        if slots.shared.plan.verify {
            // Only when nobody writes any more.
            slots.shared.barrier.wait().await;
            slots.each(ledgers, |slots, slot, ledger| slots.verify(slot, ledger)).await;
        }
        progress.abort();
    };
    local.run_until(work).await;
    found.tally = slots.tally.borrow().clone();
    found.findings = slots.findings.get();
    found.retries = mesh.stats().retries;
    found
}

/// The slots of one client and what they share.
struct Slots {
    namespace: Namespace,
    shared: Arc<Shared>,
    first: u64,
    count: u64,
    values: Values,
    tally: RefCell<Tally>,
    findings: Cell<Findings>,
    measured_from: Cell<Instant>,
    end: Cell<Instant>,
    /// Of an open loop.
    tickets: Option<Tickets>,
}

impl Slots {
    fn new(mesh: &Mesh, number: u64, shared: Arc<Shared>) -> Self {
        let plan = &shared.plan;
        let now = Instant::now();
        Self {
            namespace: mesh.namespace(&plan.namespace),
            first: plan.first_slot(number),
            count: plan.slots(number),
            values: Values::new(plan.value_size, &mut Rng::fork(plan.seed, "values")),
            tally: RefCell::default(),
            findings: Cell::default(),
            measured_from: Cell::new(now),
            end: Cell::new(now),
            tickets: plan.rate.map(|rate| Tickets::new(Duration::from_secs_f64(plan.clients as f64 / rate))),
            shared,
        }
    }

    fn ledgers(&self) -> Vec<Option<Ledger>> {
        let plan = &self.shared.plan;
        let ledger = |slot| plan.verify.then(|| Ledger::new(self.first + slot, plan.in_flight, plan.keys));
        (0..self.count).map(ledger).collect()
    }

    /// Sets the clock of the measured phase.
    fn begin(&self, begun: Instant) {
        let measured_from = begun + self.shared.plan.warmup;
        let end = measured_from + self.shared.plan.measure;
        self.measured_from.set(measured_from);
        self.end.set(end);
        if let Some(tickets) = &self.tickets {
            tickets.begin(begun, end);
        }
    }

    /// Runs a phase in every slot and gives the ledgers back in the slots' order.
    async fn each<F: Future<Output = (u64, Option<Ledger>)> + 'static>(
        self: &Rc<Self>,
        ledgers: Vec<Option<Ledger>>,
        phase: impl Fn(Rc<Self>, u64, Option<Ledger>) -> F,
    ) -> Vec<Option<Ledger>> {
        let mut tasks = JoinSet::new();
        for (slot, ledger) in (0..).zip(ledgers) {
            tasks.spawn_local(phase(self.clone(), slot, ledger));
        }
        let mut back = tasks.join_all().await;
        back.sort_by_key(|(slot, _)| *slot);
        back.into_iter().map(|(_, ledger)| ledger).collect()
    }

    fn is_interrupted(&self) -> bool {
        self.shared.interrupted.load(Ordering::Relaxed)
    }

    fn caller(&self, slot: u64, ledger: Option<Ledger>) -> Caller<'_> {
        let plan = &self.shared.plan;
        let rng = Rng::fork(plan.seed.wrapping_add(self.first + slot), "slot");
        Caller {
            slots: self,
            key: Key::new(plan.key_size, plan.keys),
            draws: Draws::new(rng, plan.mix.clone(), Zipf::new(plan.keys, plan.zipf), plan.ttls.clone()),
            stamped: Vec::new(),
            ledger,
        }
    }

    /// Writes every key of this slot once.
    async fn load(self: Rc<Self>, slot: u64, ledger: Option<Ledger>) -> (u64, Option<Ledger>) {
        let mut caller = self.caller(slot, ledger);
        let mut number = self.first + slot;
        let mut begun = Instant::now();
        while number < self.shared.plan.keys && !self.is_interrupted() {
            let written = caller.set(number, Guard::None).await;
            begun = caller.count(begun, written, true).await;
            number += self.shared.plan.in_flight;
        }
        (slot, caller.ledger)
    }

    /// Makes calls until the time is over.
    async fn measure(self: Rc<Self>, slot: u64, ledger: Option<Ledger>) -> (u64, Option<Ledger>) {
        let mut caller = self.caller(slot, ledger);
        let mut begun = Instant::now();
        while !self.is_interrupted() {
            match &self.tickets {
                Some(tickets) => match tickets.take().await {
                    Some(intended) => begun = intended,
                    None => break,
                },
                None if begun >= self.end.get() => break,
                None => {}
            }
            let (op, number) = caller.draws.next();
            let number = caller.ledger.as_ref().map_or(number, |ledger| ledger.own(number));
            begun = caller.call(op, number, begun).await;
        }
        (slot, caller.ledger)
    }

    /// Calls of an open loop that were due before the end and never begun.
    fn behind(&self) -> u64 {
        self.tickets.as_ref().filter(|_| !self.is_interrupted()).map_or(0, Tickets::behind)
    }

    /// Reads back every acknowledged key of this slot.
    async fn verify(self: Rc<Self>, slot: u64, ledger: Option<Ledger>) -> (u64, Option<Ledger>) {
        let mut caller = self.caller(slot, None);
        let mut ledger = ledger.expect("a verified run has ledgers");
        let keys: Vec<u64> = ledger.acknowledged().collect();
        let mut findings = Findings::default();
        for number in keys {
            let key = caller.key.number(number);
            match self.namespace.get(key).consistency(self.shared.plan.consistency).await {
                Ok(value) => findings.count(ledger.judge(number, value.as_deref())),
                Err(error) => {
                    findings.unread += 1;
                    caller.fail(&error).await;
                }
            }
        }
        let mut sum = self.findings.get();
        sum.add(findings);
        self.findings.set(sum);
        (slot, Some(ledger))
    }
}

/// When a write is applied.
#[derive(Clone, Copy)]
enum Guard {
    None,
    Absent,
    Version(meshwork_core::value::Version),
}

/// One slot at work.
struct Caller<'s> {
    slots: &'s Slots,
    key: Key,
    draws: Draws,
    /// Buffer of stamped values.
    stamped: Vec<u8>,
    ledger: Option<Ledger>,
}

impl Caller<'_> {
    /// One operation with whatever follows from it; gives the time of its end.
    async fn call(&mut self, op: Op, number: u64, begun: Instant) -> Instant {
        match op {
            Op::Get => self.get(number, begun).await,
            Op::Set => {
                let written = self.set(number, Guard::None).await;
                self.count(begun, written, false).await
            }
            Op::Add => {
                let written = self.set(number, Guard::Absent).await;
                self.count(begun, written, false).await
            }
            Op::Delete => {
                let deleted = self.delete(number).await;
                self.count(begun, deleted, false).await
            }
            Op::Cas => self.replace(number, begun).await,
            Op::Increment => {
                let read = self.get(number, begun).await;
                let written = self.set(number, Guard::None).await;
                self.count(read, written, false).await
            }
        }
    }

    /// Reads, and fills a miss where the plan says so.
    async fn get(&mut self, number: u64, begun: Instant) -> Instant {
        let consistency = self.slots.shared.plan.consistency;
        let read = self.slots.namespace.get(self.key.number(number)).consistency(consistency).await;
        let found = read.map(|value| value.is_some());
        self.read(number, begun, found).await
    }

    /// Reads, and replaces what was read if it is still there.
    async fn replace(&mut self, number: u64, begun: Instant) -> Instant {
        let consistency = self.slots.shared.plan.consistency;
        let read = self.slots.namespace.get_entry(self.key.number(number)).consistency(consistency).await;
        let version = read.as_ref().ok().and_then(|entry| entry.as_ref().map(|entry| entry.version));
        let end = self.read(number, begun, read.map(|entry| entry.is_some())).await;
        match version {
            Some(version) => {
                let written = self.set(number, Guard::Version(version)).await;
                self.count(end, written, false).await
            }
            None => end,
        }
    }

    async fn read(&mut self, number: u64, begun: Instant, found: Result<bool, Error>) -> Instant {
        match found {
            Ok(found) => {
                let end = Instant::now();
                if self.is_measured(end) {
                    let mut tally = self.slots.tally.borrow_mut();
                    tally.answered(end.saturating_duration_since(begun));
                    tally.gets += 1;
                    tally.hits += u64::from(found);
                }
                if found || !self.slots.shared.plan.fill {
                    return end;
                }
                let written = self.set(number, Guard::None).await;
                if written.is_ok() && self.is_measured(end) {
                    self.slots.tally.borrow_mut().fills += 1;
                }
                self.count(end, written, false).await
            }
            Err(error) => self.fail(&error).await,
        }
    }

    /// Writes; whether it was applied.
    async fn set(&mut self, number: u64, guard: Guard) -> Result<bool, Error> {
        let plan = &self.slots.shared.plan;
        let ttl = self.draws.ttl();
        let sequence = self.ledger.as_mut().map(|ledger| ledger.begin(number));
        let value = match sequence {
            Some(sequence) => {
                self.slots.values.stamped(&mut self.stamped, number, sequence);
                &self.stamped[..]
            }
            None => self.draws.value(&self.slots.values),
        };
        let mut set = self.slots.namespace.set(self.key.number(number), value).consistency(plan.consistency);
        if let Some(ttl) = ttl {
            set = set.ttl(ttl);
        }
        set = match guard {
            Guard::None => set,
            Guard::Absent => set.if_absent(),
            Guard::Version(version) => set.if_version(version),
        };
        let applied = set.await?.applied;
        if let (Some(ledger), Some(sequence), true) = (&mut self.ledger, sequence, applied) {
            ledger.acknowledge(number, sequence);
        }
        Ok(applied)
    }

    async fn delete(&mut self, number: u64) -> Result<bool, Error> {
        let consistency = self.slots.shared.plan.consistency;
        let sequence = self.ledger.as_mut().map(|ledger| ledger.begin_delete(number));
        self.slots.namespace.delete(self.key.number(number)).consistency(consistency).await?;
        if let (Some(ledger), Some(sequence)) = (&mut self.ledger, sequence) {
            ledger.acknowledge(number, sequence);
        }
        Ok(true)
    }

    /// Counts a write; gives the time of its end.
    async fn count(&mut self, begun: Instant, applied: Result<bool, Error>, always: bool) -> Instant {
        match applied {
            Ok(applied) => {
                let end = Instant::now();
                if always || self.is_measured(end) {
                    let mut tally = self.slots.tally.borrow_mut();
                    tally.answered(end.saturating_duration_since(begun));
                    tally.unmet += u64::from(!applied);
                }
                end
            }
            Err(error) => self.fail(&error).await,
        }
    }

    /// Counts a failure, in whichever phase; gives the time when the slot goes on.
    async fn fail(&mut self, error: &Error) -> Instant {
        self.slots.tally.borrow_mut().failed(error.kind().name(), || error.to_string());
        tokio::time::sleep(AFTER_FAILURE).await;
        Instant::now()
    }

    /// Whether a call that ends now counts: after the warm-up, and until the end, so that calls and seconds are of one
    /// span. An open loop counts what was intended before the end, however late it ended.
    fn is_measured(&self, end: Instant) -> bool {
        end >= self.slots.measured_from.get() && (self.slots.tickets.is_some() || end <= self.slots.end.get())
    }
}

/// Hands out the tickets of an open loop.
async fn pace(slots: Rc<Slots>) {
    if let Some(tickets) = &slots.tickets {
        tickets.hand_out(|| slots.is_interrupted()).await;
    }
}

/// Publishes progress.
async fn publish(slots: Rc<Slots>, number: u64) {
    let mut before = 0;
    let mut last = 0;
    loop {
        tokio::time::sleep(PROGRESS).await;
        let answers = slots.tally.borrow().answers();
        // A new phase begins counting anew.
        if answers < last {
            before += last;
        }
        last = answers;
        let place = &slots.shared.progress[usize::try_from(number).expect("clients are few")];
        place.store(before + answers, Ordering::Relaxed);
    }
}
