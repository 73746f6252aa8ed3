//! The pages for programs that move from libcpg or rust-corosync: they name everything, and what
//! they name exists. rustdoc compiles their Rust code.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use testbed::{cc, declared_functions, skip_because};

const FROM_C: &str = include_str!("../docs/from-libcpg.md");
const FROM_RUST: &str = include_str!("../docs/from-rust-corosync.md");

/// Functions that no header declares any more: those of libevs, and some of libcfg's.
const FORMER: [&str; 13] = [
    "evs_initialize",
    "evs_finalize",
    "evs_fd_get",
    "evs_context_get",
    "evs_context_set",
    "evs_dispatch",
    "evs_join",
    "evs_leave",
    "evs_mcast_joined",
    "evs_mcast_groups",
    "evs_membership_get",
    "corosync_cfg_ring_reenable",
    "corosync_cfg_crypto_set",
];

/// Defined in a header.
const INLINE: &str = "cs_timestamp_get";

/// The public functions, types and constants of rust-corosync 3.2.0, by module. Of the errors,
/// those that are not just called otherwise.
const RUST_COROSYNC: [(&str, &str); 6] = [
    (
        "",
        "Result CsError CsError::CsOk CsError::CsErrTryAgain CsError::CsErrRustCompat \
         CsError::CsErrRustString DispatchFlags TrackFlags NodeId",
    ),
    (
        "cfg::",
        "Callbacks Handle ShutdownFlags ShutdownReply TrackFlags NodeStatusVersion LinkStatus NodeStatus \
         initialize finalize fd_get local_get reload_cnfig reopen_log_files kill_node try_shutdown \
         reply_to_shutdown dispatch node_status_get track_start track_stop",
    ),
    (
        "cmap::",
        "Map TrackType TrackType::DELETE TrackType::MODIFY TrackType::ADD TrackType::PREFIX Handle TrackHandle \
         initialize finalize fd_get dispatch context_get context_set DataType Data set_number set_u8 set_i8 \
         set_u16 set_i16 set_u32 set_i132 set_u64 set_i164 set_string set_binary set get inc dec \
         NotifyCallback track_add track_delete CmapIterStart CmapIterStart::new CmapIntoIter CmapIter \
         CmapIter::key_name CmapIter::data",
    ),
    (
        "cpg::",
        "RingId Guarantee Guarantee::to_c FlowControlState Model1Flags Reason Reason::new Address Model1Data \
         ModelData Handle initialize finalize fd_get dispatch join leave local_get membership_get \
         max_atomic_msgsize_get context_get context_set flow_control_state_get mcast_joined CpgIterType \
         CpgIterStart CpgIterStart::new CpgIter CpgIntoIter",
    ),
    (
        "quorum::",
        "ModelData QuorumType Model1Flags RingId Model1Data Handle initialize finalize fd_get dispatch \
         getquorate trackstart trackstop context_get context_set",
    ),
    (
        "votequorum::",
        "RingId NodeState NodeState::new Node NodeInfoFlags NodeInfoFlags::VOTEQUORUM_INFO_TWONODE \
         NodeInfoFlags::VOTEQUORUM_INFO_QUORATE NodeInfoFlags::VOTEQUORUM_INFO_WAIT_FOR_ALL \
         NodeInfoFlags::VOTEQUORUM_INFO_LAST_MAN_STANDING NodeInfoFlags::VOTEQUORUM_INFO_AUTO_TIE_BREAKER \
         NodeInfoFlags::VOTEQUORUM_INFO_ALLOW_DOWNSCALE NodeInfoFlags::VOTEQUORUM_INFO_QDEVICE_REGISTERED \
         NodeInfoFlags::VOTEQUORUM_INFO_QDEVICE_ALIVE NodeInfoFlags::VOTEQUORUM_INFO_QDEVICE_CAST_VOTE \
         NodeInfoFlags::VOTEQUORUM_INFO_QDEVICE_MASTER_WINS NodeInfo Callbacks Handle initialize finalize \
         fd_get get_info dispatch trackstart trackstop context_get context_set set_expected set_votes \
         qdevice_register qdevice_unregister qdevice_update qdevice_poll qdevice_master_wins",
    ),
];

/// A row of a table: the heading above the table, the table's head, and the cells.
struct Row {
    section: String,
    head: Vec<String>,
    cells: Vec<String>,
}

impl Row {
    /// Every row of a page. Below its head a table has a row of lines.
    fn all(page: &str) -> Vec<Self> {
        let (mut rows, mut section, mut head) = (Vec::new(), "", Vec::new());
        for line in page.lines() {
            section = line.strip_prefix("## ").unwrap_or(section);
            let Some(line) = line.strip_prefix('|').and_then(|line| line.strip_suffix('|')) else {
                head.clear();
                continue;
            };
            // A bar that is part of a cell has a backslash before it.
            let cells: Vec<_> =
                line.replace("\\|", "/").split('|').map(|cell| cell.trim().to_owned()).collect();
            if head.is_empty() {
                head = cells;
            } else if !cells[0].starts_with("---") {
                assert_eq!(cells.len(), head.len(), "{line}");
                rows.push(Self { section: section.to_owned(), head: head.clone(), cells });
            }
        }
        rows
    }

    /// Whether it is about functions of C: in the tables that say more than a name.
    fn has_functions(&self) -> bool {
        self.head[0] == "C" && self.head.last().is_some_and(|last| last != "here")
    }
}

/// What stands in a text as code.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The code in the first cells of rows.
fn first_cells<'a>(rows: impl Iterator<Item = &'a Row>) -> BTreeSet<String> {
    rows.flat_map(|row| code(&row.cells[0])).map(str::to_owned).collect()
}

fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The files of a folder and of those in it.
fn files_below(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(files_below(&path, extension));
        } else if path.extension().is_some_and(|found| found == extension) {
            files.push(path);
        }
    }
    files
}

/// The functions of all headers in a folder.
fn functions_of(folder: &Path) -> BTreeSet<String> {
    files_below(folder, "h").iter().flat_map(|header| declared_functions(header)).collect()
}

/// Our headers have those of corosync's main branch; libsam's are only among the installed ones.
#[test]
fn every_function_of_corosyncs_headers_is_on_the_page_and_no_other() {
    let rows = Row::all(FROM_C);
    let named = first_cells(rows.iter().filter(|row| row.has_functions()));
    let mut declared = functions_of(&project().join("capi/include/corosync"));
    assert!(declared.len() >= 100, "{declared:?}");
    let installed = Path::new("/usr/include/corosync");
    let has_all = installed.join("sam.h").exists() && installed.join("cpg.h").exists();
    if has_all {
        declared.extend(functions_of(installed));
    }
    let missing: Vec<_> = declared.difference(&named).collect();
    assert!(missing.is_empty(), "{missing:?}");
    if !has_all {
        return skip_because("corosync's headers are not installed");
    }
    declared.extend(FORMER.iter().chain([&INLINE]).map(|name| (*name).to_owned()));
    assert_eq!(named, declared);
}

#[test]
fn every_c_type_on_the_page_is_in_a_header() {
    let headers = files_below(&project().join("capi/include/corosync"), "h");
    let text: String = headers.iter().map(|header| fs::read_to_string(header).unwrap()).collect();
    let words: BTreeSet<_> = text.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
    let rows = Row::all(FROM_C);
    let types = first_cells(rows.iter().filter(|row| row.head == ["C", "here"]));
    assert!(types.len() >= 30, "{types:?}");
    for name in types {
        let name = name.strip_prefix("struct ").unwrap_or(&name);
        assert!(words.contains(name), "{name}");
    }
}

#[test]
fn every_item_of_rust_corosync_is_on_its_page_and_no_other() {
    let rows = Row::all(FROM_RUST);
    let named = first_cells(rows.iter().filter(|row| row.head[0] == "rust-corosync"));
    let items = RUST_COROSYNC.iter().flat_map(|(module, items)| {
        items.split_whitespace().map(move |item| format!("{module}{item}"))
    });
    assert_eq!(named, items.collect());
}

/// Looks for the definition of the last name of each path: in the service's own files, and in those
/// that all services share.
#[test]
fn what_the_pages_name_in_this_crate_exists() {
    const SHARED: [&str; 4] = ["client/", "error/", "endpoint.rs", "values.rs"];
    const STD: [&str; 1] = ["IpAddr"];
    let folder = project().join("src");
    let sources = files_below(&folder, "rs").into_iter().map(|file| {
        let name = file.strip_prefix(&folder).unwrap().display().to_string();
        (name, fs::read_to_string(file).unwrap())
    });
    let sources: Vec<(String, String)> = sources.collect();
    let mut count = 0;
    for row in [FROM_C, FROM_RUST].into_iter().flat_map(Row::all) {
        if row.head[1] != "here" {
            continue;
        }
        for path in code(&row.cells[1]) {
            let (before, name) = path.rsplit_once("::").unwrap_or(("", path));
            let service = before.split_once("::").map_or("", |(service, _)| service);
            let section = row.section.strip_prefix("lib").unwrap_or(&row.section);
            let service = if service.is_empty() { section } else { service };
            let is_read = |file: &str| {
                let file = file.strip_prefix("wire/").unwrap_or(file);
                let is_own =
                    file.strip_prefix(service).is_some_and(|it| it.starts_with(['.', '/']));
                is_own || SHARED.iter().any(|shared| file.starts_with(shared))
            };
            let mut read = sources.iter().filter(|(file, _)| is_read(file));
            let exists = STD.contains(&name) || read.any(|(_, source)| defines(source, name));
            assert!(exists, "{path}, in {}", row.section);
            count += 1;
        }
    }
    assert!(count >= 200, "{count}");
}

/// Whether a file defines an item or a variant of this name.
fn defines(source: &str, name: &str) -> bool {
    source.lines().map(str::trim).filter(|line| !line.starts_with("//")).any(|line| {
        let Some((before, behind)) = line.split_once(name) else { return false };
        let is_item = ["fn ", "struct ", "enum ", "const ", "type "]
            .iter()
            .any(|keyword| before.ends_with(keyword));
        let is_variant =
            before.is_empty() && ["(", ",", " {", " ="].iter().any(|sign| behind.starts_with(sign));
        let ends = !behind.starts_with(|c: char| c.is_alphanumeric() || c == '_');
        ends && (is_item || is_variant)
    })
}

/// Whoever compares with it should be able to try it.
#[test]
fn the_c_code_of_the_page_compiles() {
    let blocks: Vec<&str> = FROM_C
        .split("\n```")
        .skip(1)
        .step_by(2)
        .filter_map(|block| block.strip_prefix("c\n"))
        .collect();
    assert!(blocks.len() >= 15, "{}", blocks.len());
    let headers = ["cpg", "cmap", "quorum", "votequorum", "cfg"];
    let includes = headers.map(|header| format!("#include <corosync/{header}.h>\n")).concat();
    let system = ["poll", "stdio", "stdlib", "string", "sys/uio", "unistd"]
        .map(|header| format!("#include <{header}.h>\n"))
        .concat();
    let source =
        format!("{system}{includes}{}\nint main(void) {{ return 0; }}\n", blocks.join("\n"));
    // Returns none after telling what is not installed.
    cc(&source, &headers);
}
