//! The functions of the libraries and their versions, beside those of Debian's.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use testbed::{declared_functions, find_program, skip_because};

use super::{LIBRARIES, capi, compile, installed};

/// The functions that a library exports, each with its version.
fn functions(library: &Path) -> BTreeMap<String, Option<String>> {
    let run = Command::new("readelf").args(["--dyn-syms", "-W"]).arg(library).output();
    let run = run.expect("binutils are installed");
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let text = String::from_utf8_lossy(&run.stdout).into_owned();
    let exported = |line: &str| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let [_, _, _, "FUNC", "GLOBAL", "DEFAULT", section, name] = columns[..] else {
            return None;
        };
        let (name, version) = match name.split_once("@@") {
            Some((name, version)) => (name, Some(version.to_owned())),
            None => (name, None),
        };
        (section != "UND").then(|| (name.to_owned(), version))
    };
    text.lines().filter_map(exported).collect()
}

#[test]
fn no_function_of_debians_is_missing_and_its_version_is_the_same() {
    let debian = Path::new("/usr/lib/x86_64-linux-gnu");
    if !debian.join("libcpg.so.4").exists() {
        return skip_because("corosync's C libraries are not installed");
    }
    let mut count = 0;
    for (name, number) in LIBRARIES {
        let file = format!("lib{name}.so.{number}");
        let ours = functions(&installed().join("lib").join(&file));
        for (function, version) in functions(&debian.join(&file)) {
            let found = ours.get(&function);
            let found = found.unwrap_or_else(|| panic!("{file} has no {function}"));
            assert!(version.is_none() || *found == version, "{function}: {found:?}, {version:?}");
            count += 1;
        }
    }
    println!("{count} functions are the same");
}

#[test]
fn what_a_header_declares_its_library_has_and_nothing_more() {
    let mut count = 0;
    for (name, number) in LIBRARIES {
        let header = if name == "corosync_common" { "corotypes" } else { name };
        let folder = capi().join("include/corosync");
        let mut declared = declared_functions(&folder.join(header).with_extension("h"));
        declared.sort();
        let file = format!("lib{name}.so.{number}");
        let functions = functions(&installed().join("lib").join(&file));
        assert_eq!(functions.keys().cloned().collect::<Vec<_>>(), declared, "{file}");
        assert!(name == "corosync_common" || functions.values().all(Option::is_some), "{file}");
        count += declared.len();
    }
    assert!(count >= 100, "{count}");
    println!("{count} functions");
}

/// The programs of the comparison, which use everything the headers have.
#[test]
fn the_same_programs_compile_with_our_headers_as_c_and_as_cpp() {
    if find_program("cc").is_none() {
        return skip_because("no C compiler");
    }
    for header in ["corotypes", "corodefs", "cpg", "cmap", "quorum", "votequorum", "cfg"] {
        for language in ["c", "c++"] {
            let run = Command::new("cc")
                .args(["-fsyntax-only", "-Wall", "-Wextra", "-Werror", "-pedantic", "-x", language])
                .arg("-I")
                .arg(capi().join("include"))
                .arg(capi().join("include/corosync").join(format!("{header}.h")))
                .output()
                .unwrap();
            assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        }
    }
    for program in ["common", "cmap", "cpg", "quorum", "votequorum", "cfg"] {
        let library = if program == "common" { "corosync_common" } else { program };
        compile(program, &[library]).unwrap();
    }
}

/// What a C program has compiled into it.
#[test]
fn structures_and_values_are_those_of_debians_headers() {
    if !Path::new("/usr/include/corosync/votequorum.h").exists() || find_program("cc").is_none() {
        return skip_because("corosync's headers or a C compiler are not installed");
    }
    let folder = tempfile::tempdir().unwrap();
    let layout = |headers: &Path| {
        let program = folder.path().join("layout");
        let run = Command::new("cc")
            .arg("-I")
            .arg(headers)
            .arg(capi().join("tests/capi/programs/layout.c"))
            .arg("-o")
            .arg(&program)
            .output()
            .unwrap();
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        String::from_utf8(Command::new(&program).output().unwrap().stdout).unwrap()
    };
    let (ours, debians) = (layout(&capi().join("include")), layout(Path::new("/usr/include")));
    assert!(ours.lines().count() >= 200, "{ours}");
    assert_eq!(ours, debians);
}
