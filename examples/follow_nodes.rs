//! Prints the configured nodes, and again whenever the configuration or the daemon changes.
//!
//! `follow_nodes [N]` ends after N lists.

use std::env;
use std::error::Error;

use corosync_ipc::supervise::{Notice, Watch};
use corosync_ipc::{Deadline, NodeId, cmap};
use serde::Deserialize;

/// What this program wants to know of a section `node` of corosync.conf.
#[derive(Deserialize)]
struct Node {
    nodeid: Option<NodeId>,
    name: Option<String>,
    ring0_addr: String,
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut left = env::args().nth(1).map_or(Ok(u64::MAX), |number| number.parse())?;
    let mut nodes = Watch::<Vec<Node>>::new(cmap::Client::connect, "nodelist.node.")?;
    while left > 0 {
        let Some(notice) = nodes.next(Deadline::NEVER)? else { break };
        match notice {
            Notice::Event(Ok(nodes)) => {
                println!("{} nodes", nodes.len());
                for Node { nodeid, name, ring0_addr } in nodes {
                    let id = nodeid.map_or_else(|| "?".to_owned(), |id| id.to_string());
                    println!("  {id} {} {ring0_addr}", name.unwrap_or_default());
                }
                left -= 1;
            }
            Notice::Event(Err(error)) => eprintln!("not a list of nodes: {error}"),
            Notice::Lost { error } | Notice::Retry { error, .. } => eprintln!("{error}"),
            _ => {}
        }
    }
    Ok(())
}
