//! Notices changed certificate files and reads them anew.
//!
//! Files are polled by their times and sizes: that works on every file system and through the symbolic links by which
//! Kubernetes swaps a secret's directory. A change that cannot be used (half written, key of the other pair) is logged
//! once and looked at again at the next tick; the old identity stays in use meanwhile.

use crate::identity::{Identity, TlsFiles};
use std::{
    path::Path,
    time::{Duration, SystemTime},
};

/// How often files are looked at by default.
pub const WATCH_EVERY: Duration = Duration::from_secs(5);

/// Watches the files of one identity.
pub struct IdentityWatch {
    files: TlsFiles,
    every: Duration,
    used: Fingerprint,
    reported: Option<Fingerprint>,
}

type Fingerprint = [Option<(SystemTime, u64)>; 3];

impl IdentityWatch {
    /// Watches `files`. Make it *before* loading the identity, or a change in between is missed.
    pub fn new(files: TlsFiles, every: Duration) -> Self {
        let used = fingerprint(&files);
        Self { files, every, used, reported: None }
    }

    /// Waits until the files have changed and hold a good identity. Safe to cancel.
    pub async fn changed(&mut self) -> Identity {
        loop {
            if let Some(identity) = self.look() {
                return identity;
            }
            tokio::time::sleep(self.every).await;
        }
    }

    /// Looks once: the new identity if the files have changed and are good. For reloading at once (SIGHUP).
    pub fn look(&mut self) -> Option<Identity> {
        let seen = fingerprint(&self.files);
        if seen == self.used {
            return None;
        }
        match Identity::load(&self.files) {
            Ok(identity) => {
                tracing::info!(identity = %identity.own(), "certificate files changed: new links use them");
                (self.used, self.reported) = (seen, None);
                Some(identity)
            }
            Err(error) => {
                if self.reported != Some(seen) {
                    tracing::warn!(%error, "certificate files changed but cannot be used; the old ones stay in use");
                    self.reported = Some(seen);
                }
                None
            }
        }
    }
}

fn fingerprint(files: &TlsFiles) -> Fingerprint {
    let of = |path: &Path| {
        let metadata = std::fs::metadata(path).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    };
    [of(&files.ca), of(&files.cert), of(&files.key)]
}
