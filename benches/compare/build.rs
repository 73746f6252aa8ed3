//! Compiles the C side, which no other package of the workspace links.

use std::path::Path;

const LIBRARIES: [&str; 6] = ["cmap", "cpg", "quorum", "votequorum", "cfg", "qb"];

fn main() {
    let sources = ["src/c_server.c", "src/c_side.c", "src/counters.c"];
    sources.iter().for_each(|source| println!("cargo:rerun-if-changed={source}"));
    // Whoever only checks the workspace does not need the C libraries.
    if let Some(missing) = missing_header() {
        println!("cargo:warning={missing} is missing: compare cannot be linked without it");
        return;
    }
    cc::Build::new()
        .files(sources)
        .opt_level(2)
        .flag("-std=gnu11")
        .flag("-Wall")
        .flag("-Wextra")
        .link_lib_modifier("+whole-archive")
        .compile("c_side");
    for library in LIBRARIES {
        println!("cargo:rustc-link-lib={library}");
    }
}

fn missing_header() -> Option<String> {
    let headers = LIBRARIES.map(|library| match library {
        "qb" => "qb/qbipcs.h".to_owned(),
        library => format!("corosync/{library}.h"),
    });
    headers.into_iter().find(|header| !Path::new("/usr/include").join(header).exists())
}
