//! A run for people: what happened when, in words and as a page (SIMULATION §6, §7).
//!
//! Kept only when a run is replayed. Bounded: of messages the last are kept, of faults and operations all.

use crate::{
    clock::{MS, Time},
    nemesis::FaultKind,
};

/// Messages kept.
const FRAMES_MAX: usize = 10_000;

/// A message from machine to machine.
#[derive(Clone, Debug)]
pub struct Frame {
    /// When it arrived.
    pub at: Time,
    /// From machine.
    pub from: u16,
    /// To machine.
    pub to: u16,
    /// Its type.
    pub kind: u8,
}

/// What happened.
#[derive(Clone, Debug, Default)]
pub struct Timeline {
    /// News: when, on which machine, what.
    pub notes: Vec<(Time, Option<u16>, String)>,
    /// Faults: from, to, what.
    pub faults: Vec<(Time, Time, FaultKind)>,
    /// Lives of processes: machine, from, to.
    pub lives: Vec<(u16, Time, Option<Time>)>,
    /// Messages, the last ones.
    pub frames: std::collections::VecDeque<Frame>,
}

impl Timeline {
    /// News.
    pub fn note(&mut self, at: Time, machine: Option<u16>, what: &str) {
        self.notes.push((at, machine, what.to_owned()));
    }

    /// A fault begins.
    pub fn fault(&mut self, from: Time, to: Time, kind: &FaultKind) {
        self.faults.push((from, to, kind.clone()));
    }

    /// A process starts.
    pub fn start(&mut self, at: Time, machine: u16, _process: u32) {
        self.lives.push((machine, at, None));
    }

    /// The process of a machine dies.
    pub fn death(&mut self, at: Time, machine: u16) {
        if let Some(life) = self.lives.iter_mut().rev().find(|(of, _, end)| *of == machine && end.is_none()) {
            life.2 = Some(at);
        }
    }

    /// A frame arrives.
    pub fn frame(&mut self, at: Time, from: u16, to: u16, frame: &[u8]) {
        if self.frames.len() == FRAMES_MAX {
            self.frames.pop_front();
        }
        let kind = frame.get(1).copied().unwrap_or(0);
        self.frames.push_back(Frame { at, from, to, kind });
    }
}

/// Minutes, seconds and milliseconds.
pub fn clock(at: Time) -> String {
    let ms = at / MS;
    format!("{:02}:{:02}.{:03}", ms / 60_000, ms / 1_000 % 60, ms % 1_000)
}
