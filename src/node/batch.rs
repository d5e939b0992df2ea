//! Batches of frames.
use bytes::Bytes;
pub(crate) fn request_ids(_frames: &Bytes) -> Vec<u64> {
    Vec::new()
}
