//! Describes a mesh: where its nodes are, who this client is, how patient it is.
//!
//! `connect` waits until a node has welcomed the client, so that a wrong certificate or address shows at start;
//! `connect_lazy` returns at once and lets the first calls wait instead. Tasks run on the runtime that builds the mesh.

use crate::{
    Error, ErrorKind, Mesh, Profile,
    clock::Clock,
    dial::Dialer,
    keeper,
    mesh::{Inner, MeshState},
    news::News,
    retry::Jitter,
    router::Links,
};
use meshwork_core::wire::local::LocalLink;
use meshwork_transport::{Identity, IdentityWatch, TlsFiles, WATCH_EVERY};
use std::{
    path::{Path, PathBuf},
    sync::{Arc, RwLock, atomic::Ordering},
    time::SystemTime,
};
use tokio::runtime::Handle;

/// The certificates of a client: the cluster's authority, its own certificate and key. There is no plaintext mode.
#[derive(Clone, Debug)]
pub struct Tls(Source);

#[derive(Clone)]
enum Source {
    Files(TlsFiles),
    Pem { ca: Vec<u8>, cert: Vec<u8>, key: Vec<u8> },
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Files(files) => files.fmt(f),
            Self::Pem { .. } => f.write_str("Pem"),
        }
    }
}

impl Tls {
    /// PEM files. They are read when the mesh connects, and looked at again every 5 s: new links use what is new.
    pub fn files(ca: impl AsRef<Path>, cert: impl AsRef<Path>, key: impl AsRef<Path>) -> Self {
        let path = |path: &Path| -> PathBuf { path.to_owned() };
        Self(Source::Files(TlsFiles::new(path(ca.as_ref()), path(cert.as_ref()), path(key.as_ref()))))
    }

    /// PEM texts.
    pub fn pem(ca: impl Into<Vec<u8>>, cert: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        Self(Source::Pem { ca: ca.into(), cert: cert.into(), key: key.into() })
    }

    fn load(&self) -> Result<Identity, Error> {
        let loaded = match &self.0 {
            Source::Files(files) => Identity::load(files),
            Source::Pem { ca, cert, key } => {
                Identity::from_pem(&TlsFiles::new("ca", "cert", "key"), ca, cert, key, SystemTime::now())
            }
        };
        loaded.map_err(|error| Error::new(ErrorKind::Tls, error.to_string()))
    }
}

/// Where this client runs: nodes of the same zone are asked first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Zone(Option<String>);

impl Zone {
    /// This zone.
    pub fn named(name: impl Into<String>) -> Self {
        Self(Some(name.into()))
    }

    /// `MESHWORK_ZONE`; unset: nearness does not matter.
    pub fn from_env() -> Self {
        Self(std::env::var("MESHWORK_ZONE").ok().filter(|zone| !zone.is_empty()))
    }
}

impl From<&str> for Zone {
    fn from(name: &str) -> Self {
        Self::named(name)
    }
}

/// See [`Mesh::builder`].
#[derive(Clone, Default)]
pub struct Builder {
    seeds: Vec<String>,
    tls: Option<Tls>,
    zone: Zone,
    profile: Profile,
    local: Option<Arc<dyn LocalLink>>,
}

impl Builder {
    /// Adds nodes to ask first, as `host:port`; all addresses of a name are tried. Any node will do: it tells the rest.
    #[must_use]
    pub fn seeds<S: Into<String>>(mut self, seeds: impl IntoIterator<Item = S>) -> Self {
        self.seeds.extend(seeds.into_iter().map(Into::into));
        self
    }

    /// Who this client is. The cluster's name is read from the certificate.
    #[must_use]
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Where this client is.
    #[must_use]
    pub fn zone(mut self, zone: impl Into<Zone>) -> Self {
        self.zone = zone.into();
        self
    }

    /// How patient calls are.
    #[must_use]
    pub fn profile(mut self, profile: Profile) -> Self {
        self.profile = profile;
        self
    }

    /// Uses the node in this process: seeds and certificates are then needed only to reach owners elsewhere directly;
    /// without them the local node forwards.
    #[must_use]
    pub fn local(mut self, node: Arc<dyn LocalLink>) -> Self {
        self.local = Some(node);
        self
    }

    /// Adds what `MESHWORK_SEEDS` (comma-separated), `MESHWORK_CA`, `MESHWORK_CERT`, `MESHWORK_KEY` and `MESHWORK_ZONE` say;
    /// what is not set there stays as it is.
    #[must_use]
    pub fn from_env(mut self) -> Self {
        let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        if let Some(seeds) = set("MESHWORK_SEEDS") {
            self = self.seeds(seeds.split(',').map(str::trim).filter(|seed| !seed.is_empty()));
        }
        if let (Some(ca), Some(cert), Some(key)) = (set("MESHWORK_CA"), set("MESHWORK_CERT"), set("MESHWORK_KEY")) {
            self = self.tls(Tls::files(ca, cert, key));
        }
        if self.zone == Zone::default() {
            self.zone = Zone::from_env();
        }
        self
    }

    /// Starts the mesh's tasks on the current tokio runtime and returns at once; calls wait for links as long as their
    /// deadlines allow.
    ///
    /// # Errors
    /// `Config` for settings that cannot work, `Tls` for unusable certificate files. Nothing was tried.
    pub fn connect_lazy(self) -> Result<Mesh, Error> {
        let runtime = Handle::try_current().map_err(|_| {
            Error::new(ErrorKind::Config, "a Mesh needs a tokio runtime")
                .hinting("build it inside #[tokio::main] or block_on")
        })?;
        self.check()?;
        // Made before the files are read, or a change in between is missed.
        let watch = match &self.tls {
            Some(Tls(Source::Files(files))) => Some(IdentityWatch::new(files.clone(), WATCH_EVERY)),
            Some(Tls(Source::Pem { .. })) | None => None,
        };
        let identity = self.tls.as_ref().map(Tls::load).transpose()?;
        let news = Arc::new(News::default());
        let dialer = Dialer {
            identity: RwLock::new(identity),
            local: self.local.clone(),
            within: self.profile.dial,
            clock: Clock::start(),
            jitter: Jitter::new(),
            news: news.clone(),
            flavor: runtime.runtime_flavor(),
        };
        let inner = Arc::new(Inner::new(self.profile, self.seeds, self.zone.0, Arc::new(dialer)));
        if let Some(local) = &self.local {
            // At once: the first call finds its route and its link.
            for shard in 0..local.shards().max(1) {
                inner.local(shard).want();
            }
            if let Some(routing) = local.routing() {
                inner.install(routing);
            }
        }
        inner.owns(runtime.spawn(keeper::sweep(Arc::downgrade(&inner), news.clone())).abort_handle());
        inner.owns(runtime.spawn(keeper::keep(Arc::downgrade(&inner), news)).abort_handle());
        if let Some(watch) = watch {
            inner.owns(runtime.spawn(keeper::watch_files(watch, inner.dialer.clone())).abort_handle());
        }
        Ok(Mesh::of(inner))
    }

    /// As `connect_lazy`, and waits until a node has welcomed this client and told it the layout, or all seeds had
    /// their time. A mesh that has no layout yet is not an error here: see [`Mesh::state`].
    ///
    /// # Errors
    /// As `connect_lazy`; `Connect` or `Tls` with the reason why no node could be reached.
    pub async fn connect(self) -> Result<Mesh, Error> {
        let within = self.profile.dial * 2 + self.profile.attempt_write;
        let mesh = self.connect_lazy()?;
        let mut state = mesh.state();
        let connected = state.wait_for(|state| *state != MeshState::Connecting);
        let answered = tokio::time::timeout(within, connected).await.is_ok();
        if answered || mesh.inner.welcomed.load(Ordering::Relaxed) {
            return Ok(mesh);
        }
        Err(mesh.inner.trouble(ErrorKind::Connect, "no node answered in time"))
    }

    fn check(&self) -> Result<(), Error> {
        let bad = |text: String, hint: &str| Err(Error::new(ErrorKind::Config, text).hinting(hint));
        if self.local.is_some() {
            return Ok(());
        }
        if self.seeds.is_empty() {
            return bad("there is no seed to ask".to_owned(), "give .seeds([\"host:7400\"]) or set MESHWORK_SEEDS");
        }
        if self.tls.is_none() {
            let hint = "give .tls(Tls::files(ca, cert, key)) or set MESHWORK_CA, MESHWORK_CERT and MESHWORK_KEY";
            return bad("there is no certificate to show".to_owned(), hint);
        }
        for seed in &self.seeds {
            let port = seed.rsplit_once(':').and_then(|(host, port)| (!host.is_empty()).then(|| port.parse::<u16>()));
            if !matches!(port, Some(Ok(1..))) {
                return bad(format!("the seed {seed:?} is not host:port"), "write it like mesh-0.example:7400");
            }
        }
        Ok(())
    }
}
