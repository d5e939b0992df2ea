//! A view of one namespace: what can be done with its keys (INTERFACES §1).
//!
//! Keys and values are anything that is bytes. `typed` gives the same calls over your own types.

use crate::{
    Batch, Codec, Delete, Error, Get, GetEntry, Mesh, Set, Touch, Typed, batch,
    call::{Call, Payload},
    mesh::Inner,
    operations::{self, NoValue, OpFuture},
};
use bytes::Bytes;
use meshwork_core::{
    id::NamespaceId,
    wire::{Condition, Ttl, inspect::Inspection},
};
use std::{net::SocketAddr, sync::Arc, time::Duration};

/// The register namespace of one name: each key holds one value, the last writer's. Cheap to clone.
#[derive(Clone)]
pub struct Namespace {
    pub(crate) inner: Arc<Inner>,
    pub(crate) id: NamespaceId,
    name: Arc<str>,
}

impl Namespace {
    pub(crate) fn new(inner: Arc<Inner>, name: &str) -> Self {
        Self { inner, id: NamespaceId::of(name), name: name.into() }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The same namespace, with values of your own type.
    pub fn typed<C: Codec>(&self) -> Typed<C> {
        Typed::new(self.clone())
    }

    fn call<K, V>(&self, key: K, payload: Payload<V>) -> Call<'_, K, V> {
        Call::new(&self.inner, self.id, key, payload)
    }

    /// Reads a value; `None`: there is none.
    pub fn get<K: AsRef<[u8]>>(&self, key: K) -> Get<'_, K> {
        Get { call: self.call(key, Payload::Get) }
    }

    /// Reads a value with its version, expiry and worth.
    pub fn get_entry<K: AsRef<[u8]>>(&self, key: K) -> GetEntry<'_, K> {
        GetEntry { call: self.call(key, Payload::Get) }
    }

    /// Writes a value. A condition that is not met is no error: `applied` is `false` then.
    pub fn set<K: AsRef<[u8]>, V: AsRef<[u8]>>(&self, key: K, value: V) -> Set<'_, K, V> {
        Set { call: self.call(key, Payload::Put { value, ttl: Ttl::Default, condition: Condition::Always }) }
    }

    /// Deletes a value. Deleting what is not there is no error.
    pub fn delete<K: AsRef<[u8]>>(&self, key: K) -> Delete<'_, K> {
        Delete { call: self.call(key, Payload::Delete { condition: Condition::Always }) }
    }

    /// Gives a value a new expiry; `false`: there is no value.
    pub fn touch<K: AsRef<[u8]>>(&self, key: K, ttl: Duration) -> Touch<'_, K> {
        Touch { call: self.call(key, Payload::Touch { ttl: operations::millis(ttl) }) }
    }

    /// Reads many values; answers in the order of the keys, each on its own.
    pub async fn get_many<K: AsRef<[u8]>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Vec<Result<Option<Bytes>, Error>> {
        let calls = keys.into_iter().map(|key| {
            let call: Call<'_, K, NoValue> = self.call(key, Payload::Get);
            OpFuture { call, finish: operations::value }
        });
        batch::all(calls).await
    }

    /// Asks the shard that listens at `address` what it holds under this key itself: no quorum, no vote, nothing changes.
    ///
    /// # Errors
    /// The node does not answer, or is of a version that cannot say: `Unsupported`.
    pub async fn inspect_at<K: AsRef<[u8]>>(&self, address: SocketAddr, key: K) -> Result<Inspection, Error> {
        let call: Call<'_, K, NoValue> = self.call(key, Payload::Inspect);
        let (answer, link) = call.over_link(self.inner.wanted(address)).await?;
        operations::inspection(answer, &link)
    }

    /// Starts a batch of calls of any sort.
    pub fn batch(&self) -> Batch<'_> {
        Batch::new(self)
    }
}

impl std::fmt::Debug for Namespace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Namespace").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The namespace `default`, without naming it.
impl Mesh {
    /// See [`Namespace::get`].
    pub fn get<K: AsRef<[u8]>>(&self, key: K) -> Get<'_, K> {
        self.default_namespace().get(key)
    }

    /// See [`Namespace::get_entry`].
    pub fn get_entry<K: AsRef<[u8]>>(&self, key: K) -> GetEntry<'_, K> {
        self.default_namespace().get_entry(key)
    }

    /// See [`Namespace::set`].
    pub fn set<K: AsRef<[u8]>, V: AsRef<[u8]>>(&self, key: K, value: V) -> Set<'_, K, V> {
        self.default_namespace().set(key, value)
    }

    /// See [`Namespace::delete`].
    pub fn delete<K: AsRef<[u8]>>(&self, key: K) -> Delete<'_, K> {
        self.default_namespace().delete(key)
    }

    /// See [`Namespace::touch`].
    pub fn touch<K: AsRef<[u8]>>(&self, key: K, ttl: Duration) -> Touch<'_, K> {
        self.default_namespace().touch(key, ttl)
    }

    /// See [`Namespace::get_many`].
    pub async fn get_many<K: AsRef<[u8]>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Vec<Result<Option<Bytes>, Error>> {
        self.default_namespace().get_many(keys).await
    }

    /// See [`Namespace::batch`].
    pub fn batch(&self) -> Batch<'_> {
        self.default_namespace().batch()
    }
}
