//! Seeds: names become addresses, again and again while this node is alone; and where others reach this node.
//!
//! A name may give several addresses, and others later than now: pods come and go behind one. A name that does not
//! resolve is told and tried again; it keeps no node from starting, since the mesh it names may come up later.

use crate::{config::Config, start::StartError, worker::Seat};
use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr, ToSocketAddrs, UdpSocket},
    time::Duration,
};

/// How often names are resolved again while nobody is found.
const RESOLVE_EVERY: Duration = Duration::from_secs(10);
/// Most addresses taken of all names together.
const ADDRESSES_MAX: usize = 256;

/// Addresses of all seeds, sorted, each once. Blocks on the system's resolver.
pub(crate) fn resolve(seeds: &[String]) -> Vec<SocketAddr> {
    let mut found = BTreeSet::new();
    for seed in seeds {
        match seed.to_socket_addrs() {
            Ok(addresses) => found.extend(addresses),
            Err(error) => tracing::warn!(seed, %error, "a seed does not resolve; it is tried again"),
        }
    }
    found.into_iter().take(ADDRESSES_MAX).collect()
}

/// Where others reach shard 0, given where it listens.
pub(crate) fn advertised(config: &Config, listen: SocketAddr, seeds: &[SocketAddr]) -> Result<SocketAddr, StartError> {
    if let Some(name) = &config.transport.advertise {
        let found = name.to_socket_addrs().ok().and_then(|mut addresses| {
            addresses.find(|address| address.is_ipv4() == listen.is_ipv4() || listen.ip().is_unspecified())
        });
        return found.ok_or_else(|| StartError::Advertise { reason: format!("{name} does not resolve") });
    }
    if !listen.ip().is_unspecified() {
        return Ok(listen);
    }
    let Some(seed) = seeds.first() else {
        let reason = "no seed resolves to an address whose route would tell".to_owned();
        return Err(StartError::Advertise { reason });
    };
    // Connecting a UDP socket sends nothing: it asks the routing table.
    let any: IpAddr = if seed.is_ipv4() { [0, 0, 0, 0].into() } else { [0u16; 8].into() };
    let route = UdpSocket::bind((any, 0)).and_then(|socket| {
        socket.connect(seed)?;
        socket.local_addr()
    });
    match route {
        Ok(local) => Ok(SocketAddr::new(local.ip(), listen.port())),
        Err(error) => Err(StartError::Advertise { reason: format!("there is no route to the seed {seed}: {error}") }),
    }
}

/// Resolves again while this node knows nobody else that is alive.
pub(crate) async fn run(seat: Seat, seeds: Vec<String>, mut known: Vec<SocketAddr>) {
    if seeds.is_empty() {
        return;
    }
    loop {
        tokio::time::sleep(RESOLVE_EVERY).await;
        let status = seat.borrow().shared().status();
        let alone = !status.members.iter().any(|member| member.node != status.node && member.health == "alive");
        if !alone {
            continue;
        }
        let names = seeds.clone();
        let Ok(found) = tokio::task::spawn_blocking(move || resolve(&names)).await else { continue };
        if found == known || found.is_empty() {
            continue;
        }
        known.clone_from(&found);
        let worker = &mut *seat.borrow_mut();
        let now = worker.begin();
        worker.on_seeds(now, found);
        worker.finish(now, &seat);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(sets: &[&str]) -> Config {
        let always = ["cluster.name=x", "tls.ca=a", "tls.cert=b", "tls.key=c"];
        let sets: Vec<String> = always.iter().chain(sets).map(|set| (*set).to_owned()).collect();
        Config::load(None, [], &sets).unwrap()
    }

    #[test]
    fn a_seed_that_does_not_resolve_hides_no_other() {
        let seeds = ["no-such-host.invalid:1".to_owned(), "127.0.0.1:7400".to_owned(), "127.0.0.1:7400".to_owned()];
        assert_eq!(resolve(&seeds), ["127.0.0.1:7400".parse().unwrap()]);
    }

    #[test]
    fn the_address_told_to_others_is_the_set_one_else_the_listened_one_else_the_routes() {
        let (any, one) = ("0.0.0.0:7400".parse().unwrap(), "127.0.0.9:7400".parse().unwrap());
        let told = config(&["transport.advertise=127.0.0.5:99"]);
        assert_eq!(advertised(&told, any, &[]).unwrap(), "127.0.0.5:99".parse().unwrap());
        let silent = config(&[]);
        assert_eq!(advertised(&silent, one, &[]).unwrap(), one);
        let seed = "127.0.0.1:1".parse().unwrap();
        assert_eq!(advertised(&silent, any, &[seed]).unwrap(), "127.0.0.1:7400".parse().unwrap());
        let error = advertised(&silent, any, &[]).unwrap_err().to_string();
        assert!(error.contains("transport.advertise"), "{error}");
    }
}
