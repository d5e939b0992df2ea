//! Lesson 2: a node inside your own process. Reads of keys it holds touch no socket.
//!
//! `cargo run --example embedded -- meshwork.toml`
//!
//! The file is the one `meshwork serve` takes (`meshwork config init` writes it). The node is a full member of its mesh;
//! the handle is the same `Mesh` that a remote client has.

use meshwork_client::{Consistency, Mesh, Quorum};
use meshwork_node::{Config, Node};
use std::path::Path;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = std::env::args().nth(1).unwrap_or_else(|| "meshwork.toml".to_owned());
    let config = Config::load(Some(Path::new(&file)), std::env::vars(), &[])?;
    let node = Node::start(config).await?;
    node.ready().await?;

    // Batches of frames cross memory instead of a network; everything else is as with a remote mesh.
    let mesh = Mesh::builder().local(node.link()).connect().await?;
    mesh.set("greeting", "hello from inside").await?;

    // One vote is enough here: the local copy answers alone.
    let near = Consistency { read: Quorum::Exactly(1), ..Consistency::default() };
    if let Some(value) = mesh.get("greeting").consistency(near).await? {
        println!("{}", String::from_utf8_lossy(&value));
    }

    mesh.close().await;
    node.stop().await?;
    Ok(())
}
