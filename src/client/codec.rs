//! Values of your own types: how they become bytes and back (INTERFACES §1, "Codecs").
//!
//! The mesh stores bytes and never looks into them; whoever reads a key must use the codec it was written with. A value
//! that cannot be decoded is an error of kind `Codec`, never a miss.

use crate::{DeleteOutcome, Error, ErrorKind, Namespace, Set};
use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};
use std::{marker::PhantomData, time::Duration};

/// Turns values into bytes and back.
pub trait Codec {
    /// The type of values.
    type Value;

    /// The bytes of a value.
    ///
    /// # Errors
    /// The value has no such encoding.
    fn encode(value: &Self::Value) -> Result<Vec<u8>, Error>;

    /// The value of bytes.
    ///
    /// # Errors
    /// The bytes were written by another codec, or for another type.
    fn decode(bytes: &Bytes) -> Result<Self::Value, Error>;
}

/// Bytes as they are.
#[derive(Clone, Copy, Debug)]
pub struct Raw;

impl Codec for Raw {
    type Value = Bytes;

    fn encode(value: &Bytes) -> Result<Vec<u8>, Error> {
        Ok(value.to_vec())
    }

    fn decode(bytes: &Bytes) -> Result<Bytes, Error> {
        Ok(bytes.clone())
    }
}

/// MessagePack with named fields: fields can be added later.
#[derive(Clone, Copy, Debug)]
pub struct MsgPack<T>(PhantomData<fn() -> T>);

impl<T: Serialize + DeserializeOwned> Codec for MsgPack<T> {
    type Value = T;

    fn encode(value: &T) -> Result<Vec<u8>, Error> {
        rmp_serde::to_vec_named(value)
            .map_err(|error| Error::new(ErrorKind::Codec, format!("the value has no MessagePack form: {error}")))
    }

    fn decode(bytes: &Bytes) -> Result<T, Error> {
        rmp_serde::from_slice(bytes)
            .map_err(|error| Error::new(ErrorKind::Codec, format!("the stored value is no such MessagePack: {error}")))
    }
}

/// JSON.
#[derive(Clone, Copy, Debug)]
pub struct Json<T>(PhantomData<fn() -> T>);

impl<T: Serialize + DeserializeOwned> Codec for Json<T> {
    type Value = T;

    fn encode(value: &T) -> Result<Vec<u8>, Error> {
        serde_json::to_vec(value)
            .map_err(|error| Error::new(ErrorKind::Codec, format!("the value has no JSON form: {error}")))
    }

    fn decode(bytes: &Bytes) -> Result<T, Error> {
        serde_json::from_slice(bytes)
            .map_err(|error| Error::new(ErrorKind::Codec, format!("the stored value is no such JSON: {error}")))
    }
}

/// A namespace whose values are `C::Value`. Made by [`Namespace::typed`].
pub struct Typed<C> {
    namespace: Namespace,
    codec: PhantomData<fn() -> C>,
}

impl<C> Clone for Typed<C> {
    fn clone(&self) -> Self {
        Self { namespace: self.namespace.clone(), codec: PhantomData }
    }
}

impl<C: Codec> Typed<C> {
    pub(crate) fn new(namespace: Namespace) -> Self {
        Self { namespace, codec: PhantomData }
    }

    /// The same namespace, in bytes: for versions, conditions, consistency.
    pub fn raw(&self) -> &Namespace {
        &self.namespace
    }

    /// Reads a value.
    ///
    /// # Errors
    /// Those of every call, and `Codec`.
    pub async fn get<K: AsRef<[u8]>>(&self, key: K) -> Result<Option<C::Value>, Error> {
        self.namespace.get(key).await?.map(|bytes| C::decode(&bytes)).transpose()
    }

    /// Writes a value; encodes it at once, so that the call holds no borrow of it.
    ///
    /// # Errors
    /// `Codec`, when the value has no encoding.
    pub fn set<K: AsRef<[u8]>>(&self, key: K, value: &C::Value) -> Result<Set<'_, K, Vec<u8>>, Error> {
        Ok(self.namespace.set(key, C::encode(value)?))
    }

    /// Deletes a value.
    ///
    /// # Errors
    /// Those of every call.
    pub async fn delete<K: AsRef<[u8]>>(&self, key: K) -> Result<DeleteOutcome, Error> {
        self.namespace.delete(key).await
    }

    /// Gives a value a new expiry; `false`: there is no value.
    ///
    /// # Errors
    /// Those of every call.
    pub async fn touch<K: AsRef<[u8]>>(&self, key: K, ttl: Duration) -> Result<bool, Error> {
        self.namespace.touch(key, ttl).await
    }
}
