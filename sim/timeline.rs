//! A run for people: what happened when (SIMULATION §6, §7); `page` draws it.
//!
//! Kept only when a run is replayed; keeping it changes nothing in the run. Bounded: of messages the last ones are kept, since
//! a run ends where something broke; of faults, lives and news all. What clients asked is in the history, not here.

use crate::{
    clock::{MS, Time},
    nemesis::FaultKind,
};
use meshwork_core::wire::{
    control::{self, PeerControl},
    frame::{Decoder, FrameType},
    peer::PeerMessage,
};
use std::collections::{BTreeMap, VecDeque};

/// Messages kept: with 30 bytes each, a page of them opens in a browser.
const MESSAGES_MAX: usize = 200_000;

/// A message from machine to machine.
#[derive(Clone, Copy, Debug)]
pub struct Message {
    /// When it was sent.
    pub sent: Time,
    /// When it arrives, if its connection lives.
    pub arrives: Time,
    /// From machine.
    pub from: u16,
    /// To machine.
    pub to: u16,
    /// Its type: a place in `Timeline::words`.
    pub kind: u16,
    /// Its key: a place in `Timeline::words`; `None`: it has none.
    pub key: Option<u16>,
    /// A datagram that is lost.
    pub lost: bool,
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
    pub messages: VecDeque<Message>,
    /// Messages beyond the bound.
    pub dropped: u64,
    /// Types of messages and keys, once each.
    pub words: Vec<String>,
    places: BTreeMap<String, u16>,
    /// By request: its key, for its answers.
    asked: BTreeMap<u64, u16>,
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

    fn place(&mut self, word: &str) -> u16 {
        if let Some(place) = self.places.get(word) {
            return *place;
        }
        let place = u16::try_from(self.words.len()).unwrap_or(u16::MAX);
        if place < u16::MAX {
            self.words.push(word.to_owned());
            self.places.insert(word.to_owned(), place);
        }
        place
    }

    /// A frame is sent over a connection.
    pub fn frame(&mut self, (sent, arrives): (Time, Time), (from, to): (u16, u16), frame: &[u8]) {
        let (kind, key) = self.name(frame);
        let kind = self.place(&kind);
        self.keep(Message { sent, arrives, from, to, kind, key, lost: false });
    }

    /// A packet of the failure detector is sent.
    pub fn packet(&mut self, (sent, arrives): (Time, Time), (from, to): (u16, u16), lost: bool) {
        let kind = self.place("Gossip");
        self.keep(Message { sent, arrives, from, to, kind, key: None, lost });
    }

    fn keep(&mut self, message: Message) {
        if self.messages.len() == MESSAGES_MAX {
            self.messages.pop_front();
            self.dropped += 1;
        }
        self.messages.push_back(message);
    }

    /// The type of a frame in words, and the key it is about.
    fn name(&mut self, frame: &[u8]) -> (String, Option<u16>) {
        let Ok((frame_type, id, mut decoder)) = Decoder::start(frame) else {
            return ("Unknown or damaged".to_owned(), None);
        };
        if frame_type == FrameType::Control {
            let message = control::decode::<PeerControl>(id, &mut decoder).map(|message| format!("{message:?}"));
            let name = message.unwrap_or_default();
            let end = name.find(|letter: char| !letter.is_ascii_alphanumeric()).unwrap_or(name.len());
            return (name[..end].to_owned(), None);
        }
        let key = match PeerMessage::decode(frame_type, id, &mut decoder) {
            Ok(Some(PeerMessage::Replicate { key, .. } | PeerMessage::Read { key, .. })) => {
                let place = self.place(&String::from_utf8_lossy(key.key));
                self.asked.insert(id, place);
                Some(place)
            }
            Ok(_) | Err(_) => self.asked.get(&id).copied(),
        };
        (format!("{frame_type:?}"), key)
    }
}

/// Minutes, seconds and milliseconds.
pub fn clock(at: Time) -> String {
    let ms = at / MS;
    format!("{:02}:{:02}.{:03}", ms / 60_000, ms / 1_000 % 60, ms % 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_kept_once_and_messages_up_to_their_bound() {
        let mut timeline = Timeline::default();
        for nth in 0..MESSAGES_MAX as u64 + 3 {
            timeline.packet((nth, nth + 1), (0, 1), false);
        }
        timeline.frame((9, 10), (1, 0), b"noise");
        assert_eq!((timeline.messages.len(), timeline.dropped), (MESSAGES_MAX, 4));
        assert_eq!(timeline.words, ["Gossip", "Unknown or damaged"]);
        assert_eq!(timeline.messages.front().map(|message| message.sent), Some(4));
    }

    #[test]
    fn clocks_are_minutes_seconds_and_milliseconds() {
        assert_eq!(clock(192_418 * MS), "03:12.418");
    }
}
