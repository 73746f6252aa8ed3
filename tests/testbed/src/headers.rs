//! What a C header declares.

use std::fs;
use std::path::Path;

/// The functions that a header declares, in its order. Those that it defines itself, `static
/// inline`, are not among them.
///
/// # Panics
/// If the header cannot be read.
pub fn declared_functions(header: &Path) -> Vec<String> {
    let text = fs::read_to_string(header)
        .unwrap_or_else(|error| panic!("{} cannot be read: {error}", header.display()));
    let text = without_comments(&text).replace("\\\n", " ").replace("extern \"C\" {", "");
    let code: Vec<&str> = text.lines().filter(|line| !line.trim().starts_with('#')).collect();
    without_bodies(&code.join("\n")).split(';').filter_map(declared).collect()
}

fn without_comments(text: &str) -> String {
    let mut parts = text.split("/*");
    let mut code = parts.next().unwrap_or_default().to_owned();
    code.extend(parts.filter_map(|part| Some(part.split_once("*/")?.1)));
    let lines = code.lines().map(|line| line.split_once("//").map_or(line, |(code, _)| code));
    lines.collect::<Vec<_>>().join("\n")
}

/// Without what is between braces. A body ends a declaration, as a semicolon does.
fn without_bodies(code: &str) -> String {
    let (mut outside, mut depth) = (String::new(), 0_u32);
    for character in code.chars() {
        match character {
            '{' => depth += 1,
            '}' => {
                depth = depth.saturating_sub(1);
                outside.push(';');
            }
            _ if depth == 0 => outside.push(character),
            _ => {}
        }
    }
    outside
}

/// The function that a declaration declares, if it is one of a function.
fn declared(declaration: &str) -> Option<String> {
    let (before, _) = declaration.trim().split_once('(')?;
    let mut words =
        before.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|it| !it.is_empty());
    if matches!(words.next()?, "typedef" | "static") {
        return None;
    }
    words.next_back().map(str::to_owned)
}
