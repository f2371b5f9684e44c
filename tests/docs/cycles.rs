//! Checks that no two source files import each other, directly or through others. A `mod.rs` is the face of its
//! directory, and is left out.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use qrlogin_testing::test;

fn source_files(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            source_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// Returns the path of a file's module, without `crate`.
fn module_of(src: &Path, file: &Path) -> Vec<String> {
    let relative = file.strip_prefix(src).unwrap().with_extension("");
    relative.iter().map(|part| part.to_str().unwrap().to_owned()).filter(|part| part != "mod").collect()
}

/// Returns the paths that the imports of a file name, from the root of the crate. Names in braces are expanded once,
/// which suffices for formatted imports.
fn imports(code: &str, module: &[String], is_face: bool) -> Vec<Vec<String>> {
    let parent = if is_face { module } else { &module[..module.len().saturating_sub(1)] };
    let mut paths = Vec::new();
    let imports = code.split("\nuse ").skip(1).chain(code.split("\npub use ").skip(1));
    for import in imports.filter_map(|rest| rest.split(';').next()) {
        let (prefix, names) = import.split_once('{').unwrap_or((import, ""));
        let names: Vec<_> =
            if names.is_empty() { vec![""] } else { names.trim_end_matches(['}', '\n']).split(',').collect() };
        for name in names {
            let whole = format!("{}{}", prefix.trim(), name.trim());
            let mut parts: Vec<_> = whole.split("::").map(|part| part.trim().to_owned()).collect();
            let mut base = match parts[0].as_str() {
                "crate" => Vec::new(),
                "super" if is_face => module[..module.len() - 1].to_vec(),
                "super" => parent.to_vec(),
                _ => [module.to_vec(), vec![parts[0].clone()]].concat(),
            };
            base.extend(parts.drain(1..));
            paths.push(base);
        }
    }
    paths
}

/// Returns a cycle that is reached from `file`, if there is one.
fn cycle(
    file: &str,
    graph: &BTreeMap<String, BTreeSet<String>>,
    path: &mut Vec<String>,
    done: &mut BTreeSet<String>,
) -> Option<Vec<String>> {
    if let Some(start) = path.iter().position(|visited| visited == file) {
        return Some(path[start..].to_vec());
    }
    if !done.insert(file.to_owned()) {
        return None;
    }
    path.push(file.to_owned());
    let found = graph.get(file).into_iter().flatten().find_map(|next| cycle(next, graph, path, done));
    path.pop();
    found
}

#[test]
fn no_two_files_import_each_other() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    source_files(&src, &mut files);
    let is_face = |file: &Path| ["mod.rs", "lib.rs", "main.rs"].iter().any(|name| file.ends_with(name));
    let modules: BTreeMap<Vec<String>, String> = files
        .iter()
        .filter(|file| !is_face(file))
        .map(|file| (module_of(&src, file), file.strip_prefix(&src).unwrap().display().to_string()))
        .collect();
    let mut graph: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (module, file) in &modules {
        let text = fs::read_to_string(src.join(file)).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
        for path in imports(code, module, false) {
            let named = (1..=path.len()).rev().find_map(|length| modules.get(&path[..length]));
            if let Some(other) = named.filter(|other| *other != file) {
                graph.entry(file.clone()).or_default().insert(other.clone());
            }
        }
    }
    assert!(graph.values().map(BTreeSet::len).sum::<usize>() > 200, "imports are recognized");
    let mut done = BTreeSet::new();
    for file in modules.values() {
        let found = cycle(file, &graph, &mut Vec::new(), &mut done);
        assert!(found.is_none(), "these files import each other: {found:?}");
    }
}
