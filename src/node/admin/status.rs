//! `GET /v1/status`: what this node knows of the mesh and of itself, as JSON.

use super::Admin;
use axum::{Json, extract::State};
use meshwork_core::wire::control::NodeStatus;

pub(super) async fn status(State(admin): State<Admin>) -> Json<NodeStatus> {
    let mut status = (*admin.shared.status()).clone();
    // As of now: the rest is as of the last tick.
    status.disk = admin.shared.store.as_ref().map(|store| store.status());
    Json(status)
}
