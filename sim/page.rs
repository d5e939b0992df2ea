//! A run as one page to look at: a lane per machine, messages as lines, faults as bands, operations as marks (SIMULATION §7).
//!
//! The page is one file without any reference to another: `page.html` with the run in it as JSON, in short arrays, since a
//! long run has a hundred thousand messages. What makes a page too large for a browser is thinned out: messages far from
//! what broke first, and never those about its key. The page says how much is missing.

use crate::{
    clock::{MS, Time},
    history::{Event, History},
    nemesis::FaultKind,
    phases::Outcome,
    plan::Plan,
    timeline::{Message, Timeline},
};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Messages on a page.
const MESSAGES_MAX: usize = 100_000;
/// Operations on a page.
const OPS_MAX: usize = 20_000;
/// Messages so near before what broke are all shown.
const NEAR: Time = 5_000 * MS;

/// The page of a run whose timeline was kept; `None`: it was not.
pub fn of(plan: &Plan, outcome: &Outcome) -> Option<String> {
    let timeline = outcome.timeline.as_ref()?;
    let finding = outcome.findings.first();
    let end = outcome.virtual_ms * MS;
    let broke = finding.map_or(end, |finding| finding.t * 1_000);
    let broken: BTreeSet<u64> = finding.map(|finding| finding.ops.iter().copied().collect()).unwrap_or_default();
    let ops = operations(&outcome.history, &broken, broke);
    let keys: BTreeSet<&str> = ops.iter().filter(|op| broken.contains(&op.number)).map(|op| op.key.as_str()).collect();
    let shown = thin(timeline, broke, &keys);
    let machines = plan.config.nodes as usize + plan.faults.iter().filter(|fault| is_clone(&fault.kind)).count();
    let us = |at: Time| at / 1_000;
    let data = json!({
        "seed": format!("{:x}", plan.seed),
        "commit": crate::commit(),
        "note": plan.note,
        "machines": machines,
        "end": us(end),
        "finding": finding.map(|finding| json!({"t": finding.t, "what": finding.to_string()})),
        "words": timeline.words,
        "missing": timeline.dropped + (timeline.messages.len() - shown.len()) as u64,
        "lives": timeline.lives.iter().map(|(of, from, to)| json!([of, us(*from), us(to.unwrap_or(end))])).collect::<Vec<_>>(),
        "faults": timeline.faults.iter().map(|(from, to, kind)| fault(us(*from), us(*to), kind)).collect::<Vec<_>>(),
        "notes": timeline.notes.iter().map(|(at, machine, what)| json!([us(*at), machine, what])).collect::<Vec<_>>(),
        "messages": shown.iter().map(|message| line(message)).collect::<Vec<_>>(),
        "ops": ops.iter().map(Operation::json).collect::<Vec<_>>(),
    });
    // A script ends at the first such tag, wherever it is.
    let data = data.to_string().replace("</", "<\\/");
    Some(include_str!("page.html").replacen("/*RUN*/null", &data, 1))
}

fn is_clone(kind: &FaultKind) -> bool {
    matches!(kind, FaultKind::Clone { .. })
}

fn line(message: &Message) -> Value {
    let Message { sent, arrives, from, to, kind, key, lost } = message;
    json!([sent / 1_000, (arrives - sent) / 1_000, from, to, kind, key, u8::from(*lost)])
}

fn fault(from: u64, to: u64, kind: &FaultKind) -> Value {
    let machines: Vec<u16> = kind.machines().collect();
    let words = format!("{kind:?}");
    json!([from, to, words, machines])
}

/// Those that a page shows: all about the broken key and shortly before it broke, of the others every so many.
fn thin<'a>(timeline: &'a Timeline, broke: Time, keys: &BTreeSet<&str>) -> Vec<&'a Message> {
    let names: BTreeSet<usize> =
        timeline.words.iter().enumerate().filter(|(_, word)| keys.contains(word.as_str())).map(|(at, _)| at).collect();
    let matters = |message: &Message| {
        message.key.is_some_and(|key| names.contains(&usize::from(key)))
            || (message.sent <= broke && message.sent + NEAR >= broke)
    };
    let mattering = timeline.messages.iter().filter(|message| matters(message)).count();
    let others = timeline.messages.len() - mattering;
    let every = others.div_ceil(MESSAGES_MAX.saturating_sub(mattering).max(1)).max(1);
    let enough = mattering.div_ceil(MESSAGES_MAX).max(1);
    let (mut nth, mut mine) = (0, 0);
    let kept = timeline.messages.iter().filter(|message| {
        let (count, step) = if matters(message) { (&mut mine, enough) } else { (&mut nth, every) };
        *count += 1;
        *count % step == 0
    });
    kept.collect()
}

/// One operation with its end.
struct Operation {
    number: u64,
    asked: u64,
    ended: Option<u64>,
    node: u32,
    key: String,
    what: String,
    how: &'static str,
    answer: String,
    broken: bool,
}

impl Operation {
    fn json(&self) -> Value {
        let how = ["ok", "fail", "maybe", "open"].iter().position(|how| *how == self.how);
        json!([
            self.number,
            self.asked,
            self.ended,
            self.node,
            self.key,
            self.what,
            how,
            self.answer,
            u8::from(self.broken)
        ])
    }
}

fn operations(history: &History, broken: &BTreeSet<u64>, broke: Time) -> Vec<Operation> {
    let mut ops: Vec<Operation> = Vec::new();
    let mut places: BTreeMap<u64, usize> = BTreeMap::new();
    for event in &history.events {
        let (how, end) = match event {
            Event::Invoke(invoke) => {
                let mut what = format!("{} w={} r={}", invoke.f, invoke.w, invoke.r);
                what += if invoke.strict { " strict" } else { "" };
                what += &invoke.ttl_ms.map_or(String::new(), |ttl| format!(" ttl={ttl} ms"));
                what += &format!(" by client {}", invoke.session);
                places.insert(invoke.op, ops.len());
                ops.push(Operation {
                    number: invoke.op,
                    asked: invoke.t,
                    ended: None,
                    node: invoke.node,
                    // Messages know keys without their namespaces.
                    key: invoke.key.clone(),
                    what: format!("{} {}", invoke.ns, what),
                    how: "open",
                    answer: String::new(),
                    broken: broken.contains(&invoke.op),
                });
                continue;
            }
            Event::Ok(end) => ("ok", end),
            Event::Fail(end) => ("fail", end),
            Event::Maybe(end) => ("maybe", end),
            Event::Fault { .. } | Event::Founded { .. } | Event::Phase { .. } => continue,
            Event::Flush { .. } | Event::Created { .. } => continue,
        };
        let Some(op) = places.get(&end.op).and_then(|at| ops.get_mut(*at)) else { continue };
        (op.ended, op.how) = (Some(end.t), how);
        op.answer = end.status.clone();
        op.answer += &end.value.map_or(String::new(), |value| format!(", value of op {value}"));
        op.answer += &end.version.map_or(String::new(), |version| format!(", version {version}"));
        op.answer += &format!(", acks {}", end.acks);
        op.answer += &end.flags.iter().map(|flag| format!(" {flag}")).collect::<String>();
    }
    if ops.len() > OPS_MAX {
        let keys: BTreeSet<String> = ops.iter().filter(|op| op.broken).map(|op| op.key.clone()).collect();
        // The nearest to what broke stay, and all of its key.
        let mut far: Vec<u64> = ops.iter().map(|op| op.asked.abs_diff(broke / 1_000)).collect();
        far.sort_unstable();
        let most = far[OPS_MAX - 1];
        ops.retain(|op| keys.contains(&op.key) || op.asked.abs_diff(broke / 1_000) <= most);
    }
    ops
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::phases::{Keep, run};

    #[test]
    fn a_page_is_one_file_that_holds_the_whole_run_and_opens_in_a_browser() {
        let plan = Plan::of_seed(5, None);
        let outcome = run(&plan, &Keep { window: 0..0, timeline: true });
        let page = of(&plan, &outcome).unwrap();
        assert!(page.len() < 10 << 20 && page.contains("\"seed\":\"5\""), "{} bytes", page.len());
        assert!(!page.contains("src=") && !page.contains("href=") && !page.contains("/*RUN*/"));
        let from = page.find("const RUN = ").unwrap() + "const RUN = ".len();
        let text = &page[from..from + page[from..].find(";\n").unwrap()];
        let data: Value = serde_json::from_str(text).unwrap();
        let asked = outcome.history.events.iter().filter(|event| matches!(event, Event::Invoke(_))).count();
        assert_eq!(data["ops"].as_array().unwrap().len(), asked.min(OPS_MAX));
        assert!(!data["messages"].as_array().unwrap().is_empty());
        assert_eq!(of(&plan, &run(&plan, &Keep::default())), None);
    }

    #[test]
    fn what_is_thinned_out_is_far_from_what_broke_and_about_other_keys() {
        let mut timeline = Timeline::default();
        timeline.words = vec!["Read".to_owned(), "k1".to_owned()];
        for nth in 0..3 * MESSAGES_MAX as u64 {
            let key = (nth % 1_000 == 0).then_some(1);
            timeline.messages.push_back(Message {
                sent: nth * MS,
                arrives: nth * MS + 1,
                from: 0,
                to: 1,
                kind: 0,
                key,
                lost: false,
            });
        }
        let broke = 3 * MESSAGES_MAX as u64 * MS;
        let kept = thin(&timeline, broke, &BTreeSet::from(["k1"]));
        assert!(kept.len() <= MESSAGES_MAX && kept.len() > MESSAGES_MAX / 2);
        assert_eq!(kept.iter().filter(|message| message.key.is_some()).count(), 3 * MESSAGES_MAX / 1_000);
        assert!(kept.iter().filter(|message| message.sent + NEAR >= broke).count() >= 5_000);
    }
}
