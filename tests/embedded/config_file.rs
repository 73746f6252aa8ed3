//! A corosync.conf puts the same keys into the embedded daemon's map as into corosync's.

use std::collections::BTreeMap;
use std::fs;

use corosync_ipc::cfg;
use corosync_ipc::cmap::{self, Value, ValueType};
use corosync_ipc::embedded;
use corosync_ipc::{Endpoint, NodeId};
use testbed::{Cluster, Transport, nothing_to_compare};

const EXTRA: &str = "
quorum {
  device {
    model: net
    votes: 1
    timeout: 12000
    net {
      host: qnetd
      algorithm: ffsplit
    }
  }
}
uidgid {
\tuid: 90
  gid: 7
}
uidgid {
  uid: nobody
}
logging {
  to_syslog: no
  logger_subsys {
    debug: on
    subsys: QUORUM
  }
  logging_daemon {
    name: pacemaker
    subsys: one
    debug: off
  }
  logging_daemon {
    name: corosync
    subsys: VOTEQ
    debug: off
  }
}
resources {
  watchdog_timeout: 9
}
somebody { \x20
  else: entirely: so
  below { \r
    a.b: c
  }
}
";

/// Bytes that are not UTF-8, which values and comments have.
const IN_LATIN_1: &[u8] = b"
somebody {
  city: K\xf6ln
  # \xc4rger
}
";

/// The keys that come from a file.
fn keys(endpoint: &Endpoint) -> BTreeMap<String, Value> {
    let client = cmap::Client::connect_to(endpoint).unwrap();
    let sections =
        ["totem.", "nodelist.", "quorum.", "logging.", "uidgid.", "resources.w", "somebody."];
    sections.into_iter().flat_map(|section| client.list(section).unwrap()).collect()
}

#[test]
fn a_file_becomes_the_keys_that_corosync_makes_of_it() {
    if nothing_to_compare() {
        return;
    }
    let cluster = Cluster::builder()
        .nodes(2)
        .transport(Transport::Knet)
        .setting("totem", "config_version: 18446744073709551615")
        .setting("totem", "token: 5000")
        .setting("quorum", "wait_for_all: 0")
        .extra_config(EXTRA)
        .start();
    let node = cluster.node(2);
    let mut text = fs::read(node.config_path()).unwrap();
    text.extend(IN_LATIN_1);
    fs::write(node.config_path(), &text).unwrap();
    let real = node.run(|| {
        cfg::Client::connect().unwrap().reload_config().unwrap();
        keys(&Endpoint::new())
    });
    assert_eq!(real.get("somebody.city").map(Value::value_type), Some(ValueType::STRING));

    let builder = embedded::Cluster::builder().config_file(&text).unwrap();
    assert_eq!(builder.node_ids(), [1, 2].map(NodeId));
    let ours = builder.start().unwrap();
    let mut ours = keys(ours.node(2).unwrap().endpoint());
    // Of this node alone, the daemon adds more of what totem makes of it.
    ours.retain(|key, _| real.contains_key(key) || !key.starts_with("totem.interface."));
    let mut real = real;
    real.retain(|key, _| ours.contains_key(key) || !key.starts_with("totem.interface."));
    assert_eq!(ours, real, "{}", text.escape_ascii());
}

#[test]
fn a_file_says_how_messages_travel_and_who_may_connect() {
    let text = "totem {\n version: 2\n cluster_name: filed\n}\nsystem {\n qb_ipc_type: socket\n}\n\
        quorum {\n provider: corosync_votequorum\n}\nnodelist {\n node {\n ring0_addr: 10.0.0.7\n nodeid: 7\n }\n}\n";
    let cluster = embedded::Cluster::builder().config_file(text).unwrap().start().unwrap();
    assert_eq!((cluster.name(), cluster.transport()), ("filed", embedded_socket()));
    let client = cmap::Client::connect_to(cluster.node(7).unwrap().endpoint()).unwrap();
    assert_eq!(client.transport(), embedded_socket());
    assert_eq!(client.get_as::<String>("nodelist.node.0.name").unwrap(), None);
    for (from, to, said) in [
        ("ring0_addr", "ring1_addr", "line 13: ring1_addr: an embedded node has one link"),
        ("nodeid: 7", "nodeid: 0", "line 14: nodeid 0 is 0 or another node's"),
        (" nodeid: 7\n", "", "line 13: a node without nodeid"),
        ("corosync_votequorum", "none", "line 9: quorum.provider: embedded nodes have"),
        ("version: 2\n", "version: 2\n transport: udpu\n", "line 3: totem.transport"),
        ("version: 2", "version: 1", "line 2: totem.version is 2"),
        ("socket", "tcp", "line 6: system.qb_ipc_type is tcp"),
        (
            "provider: ",
            "provide: ",
            "no quorum.provider: write `provider: corosync_votequorum` in the section quorum",
        ),
        ("nodeid: 7", "nodeid: 7\n name: a\0b", "line 15: a line has no NUL in it"),
    ] {
        assert!(text.contains(from));
        let error = embedded::Cluster::builder().config_file(text.replace(from, to)).unwrap_err();
        assert!(error.to_string().contains(said), "{error}");
    }
}

fn embedded_socket() -> corosync_ipc::libqb::Transport {
    corosync_ipc::libqb::Transport::Socket
}
