//! Lesson 1: connect, write, read. Start a mesh with `meshwork dev`, or run this inside one:
//!
//! `meshwork dev -- cargo run --example quickstart`
//!
//! `from_env` takes the seeds and certificates that `meshwork dev -- …` puts into the environment.

use meshwork_client::{Error, Mesh};
use std::time::Duration;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    // One handle for the whole program: clone it into every task.
    let mesh = Mesh::builder().from_env().connect().await?;

    // A value that lives for five minutes. The reply says what it is worth.
    let done = mesh.set("greeting", "hello, mesh").ttl(Duration::from_secs(300)).await?;
    println!("written: {} replicas acknowledged", done.worth.acks);

    // `None` would be a miss, never an error.
    if let Some(value) = mesh.get("greeting").await? {
        println!("read:    {}", String::from_utf8_lossy(&value));
    }

    // Replace exactly what was read; somebody else's newer value stays.
    if let Some(entry) = mesh.get_entry("greeting").await? {
        let swapped = mesh.set("greeting", "hello again").if_version(entry.version).keep_ttl().await?;
        println!("swapped: {}, {:?} left", swapped.applied, entry.ttl_left());
    }

    // Many keys at once: each goes to its own owner, all share packets.
    let keys = ["greeting", "nobody"];
    for (key, value) in keys.iter().zip(mesh.get_many(keys).await) {
        match value {
            Ok(Some(value)) => println!("{key}: {} bytes", value.len()),
            Ok(None) => println!("{key}: not there"),
            // An error says whether a write may have been applied, and what to do next.
            Err(error) => println!("{key}: {error}"),
        }
    }

    mesh.delete("greeting").await?;
    mesh.close().await;
    Ok(())
}
