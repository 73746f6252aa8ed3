//! `docs/from-c-tools.md` has each option of corosync's tools, and shows what both print.

use std::collections::BTreeSet;
use std::os::unix::fs::symlink;
use std::path::Path;

use tempfile::TempDir;
use testbed::{
    Node, NodeCommand, Output, eventually, find_program, lacks, nothing_to_compare, skip,
};

use super::tools::Both;
use super::{ok, program};

const PAGE: &str = include_str!("../../docs/from-c-tools.md");

const TOOLS: [&str; 5] = [
    "corosync-cmapctl",
    "corosync-quorumtool",
    "corosync-cfgtool",
    "corosync-cpgtool",
    "corosync-notifyd",
];

/// The page's part about a tool.
fn section(tool: &str) -> &'static str {
    let (_, rest) = PAGE.split_once(&format!("\n## {tool}\n")).expect("the page has it");
    rest.split("\n## ").next().unwrap_or(rest)
}

/// The options that the tool's help names, with their dashes.
fn options(help: &str) -> BTreeSet<String> {
    let mut options = BTreeSet::new();
    for word in help.split(|c: char| c.is_whitespace() || "[](),:<>".contains(c)) {
        if let Some(name) = word.strip_prefix("--") {
            options.insert(format!("--{name}"));
        } else if let Some(letters) = word.strip_prefix('-') {
            // Such as -DdghsTt.
            let letters = letters.chars().filter(char::is_ascii_alphabetic);
            options.extend(letters.map(|letter| format!("-{letter}")));
        }
    }
    options
}

#[test]
fn the_page_has_every_option_of_the_tools() {
    for tool in TOOLS {
        if skip() || lacks(tool) {
            continue;
        }
        let help = NodeCommand::here(find_program(tool).unwrap()).arg("-h").run();
        let options = options(&(help.stdout + &help.stderr));
        assert!(options.len() > 3, "{tool}: {options:?}");
        let rows =
            section(tool).lines().filter_map(|line| line.strip_prefix("| ")?.split(" |").next());
        let rows: BTreeSet<&str> = rows.flat_map(|cell| cell.split(['`', ',', ' '])).collect();
        let missing: Vec<_> =
            options.iter().filter(|option| !rows.contains(option.as_str())).collect();
        assert!(missing.is_empty(), "{tool}: the page has no row of {missing:?}");
    }
}

/// A directory in which the command is found by its name, and the files that the page names.
fn folder() -> TempDir {
    let folder = testbed::folder();
    symlink(program(), folder.path().join("corosync-ipc")).unwrap();
    std::fs::write(folder.path().join("settings.txt"), "my.key u32 17\n").unwrap();
    folder
}

/// Runs a line of the page as a shell does.
fn shell(command: NodeCommand, folder: &Path, line: &str) -> Output {
    let script = format!("cd \"$0\"; PATH=$0:$PATH; {line}");
    command.args(["-c", &script]).arg(folder).run()
}

#[test]
fn every_command_that_the_page_names_is_one() {
    let folder = folder();
    let spans = PAGE.split('`').skip(1).step_by(2).filter(|span| span.starts_with("corosync-ipc "));
    let lines = PAGE.lines().filter_map(|line| line.strip_prefix("$ "));
    let commands: BTreeSet<&str> =
        spans.chain(lines.filter(|line| line.starts_with("corosync-ipc "))).collect();
    assert!(commands.len() > 40, "{commands:?}");
    for command in commands {
        let here = NodeCommand::here("/bin/sh").env("COROSYNC_IPC_SOCKET_DIR", folder.path());
        let output = shell(here, folder.path(), command);
        // Wrong usage would be 2.
        let is_help = command.ends_with(" --help") || command.ends_with(" --version");
        assert_eq!(output.code(), if is_help { 0 } else { 3 }, "{command}: {output:?}");
    }
}

/// The commands that the page shows, and what they print.
fn shown() -> Vec<(&'static str, String)> {
    let mut shown: Vec<(&str, String)> = Vec::new();
    for block in PAGE.split("```console\n").skip(1) {
        let (block, _) = block.split_once("```").expect("it ends");
        for line in block.lines() {
            match (line.strip_prefix("$ "), shown.last_mut()) {
                (Some(command), _) => shown.push((command, String::new())),
                (None, Some((_, printed))) => *printed += &format!("{line}\n"),
                (None, None) => panic!("{line} is behind no command"),
            }
        }
    }
    shown
}

/// Text without what is not the same on two days: numbers, and the space that they take.
fn settled(text: &str) -> String {
    let line = |line: &str| {
        if line.starts_with("Ring ID:") || line.starts_with("Date:") {
            return line.split_once(':').unwrap().0.to_owned();
        }
        let digit = |c: char| if c.is_ascii_digit() { '#' } else { c };
        let mut words: Vec<String> = Vec::new();
        for word in line.split_whitespace() {
            let is_ring = words.last().is_some_and(|before| before == "ring");
            let mut word: Vec<char> =
                if is_ring { vec!['#'] } else { word.chars().map(digit).collect() };
            word.dedup_by(|a, b| *a == '#' && *b == '#');
            words.push(word.into_iter().collect());
        }
        words.join(" ")
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn what_the_page_shows_is_what_they_print() {
    if nothing_to_compare() || TOOLS.into_iter().any(lacks) {
        return;
    }
    let mut both = Both::start();
    let _joined = both.spawn(|node| {
        let joined =
            node.command(program()).args(["cpg", "join", "my-group"]).interactive().spawn();
        joined.wait_stdout("confchg");
        joined
    });
    let folder = folder();
    let mut differences = Vec::new();
    for node in both.nodes() {
        let name = ok(node, &["cmap", "get", "totem.cluster_name"]);
        eventually("all are there", || knows_all(node));
        for (command, printed) in shown() {
            let output = shell(node.command("/bin/sh"), folder.path(), command);
            let text = (output.stdout + &output.stderr).replace(name.trim(), "example");
            if settled(&text) != settled(&printed) {
                differences.push(format!("$ {command}\n{text}"));
            }
        }
    }
    assert!(differences.is_empty(), "the page shows other than\n{}", differences.concat());
}

/// Whether the links are up and measured.
fn knows_all(node: &Node) -> bool {
    let nodes = node.tool("corosync-cfgtool", ["-n"]).stdout;
    nodes.matches(" connected mtu: 1446").count() == 2
}
