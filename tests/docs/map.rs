//! Checks that ARCHITECTURE.md names files and functions that exist.

use std::fs;
use std::path::Path;

use qrlogin_testing::test;

/// Maximum number of stops between the handler of `confirm` and the socket, which are rows of a table.
const MAX_STOPS: usize = 20;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Adds the paths of all files below a directory.
fn add_files(directory: &Path, files: &mut Vec<String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target" && name != "node_modules") {
            add_files(&path, files);
        } else {
            files.push(path.to_string_lossy().into_owned());
        }
    }
}

fn architecture() -> String {
    fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap()
}

#[test]
fn every_source_file_that_the_text_names_exists() {
    let mut sources = Vec::new();
    for directory in ["src", "crates", "tests", "examples", "benches", "fuzz"] {
        add_files(&root().join(directory), &mut sources);
    }
    let mut count = 0;
    for page in ["ARCHITECTURE.md", "CONTRIBUTING.md", "PROTOCOL.md", "README.md", "SECURITY.md"] {
        let text = fs::read_to_string(root().join(page)).unwrap();
        for file in text.split('`').skip(1).step_by(2).filter(|word| word.ends_with(".rs")) {
            // A file that the sentence names by its name alone is in a directory that the sentence names too.
            let end = format!("/{file}");
            assert!(sources.iter().any(|source| source.ends_with(&end)), "{page} names {file}, which does not exist");
            count += 1;
        }
    }
    assert!(count > 40, "{count}");
}

#[test]
fn every_directory_and_file_of_the_map_exists() {
    let text = architecture();
    let map = text.split("```").nth(1).unwrap();
    let mut directories = vec![(0, root().to_path_buf())];
    for line in map.lines().skip(1).filter(|line| !line.trim().is_empty()) {
        let indent = line.len() - line.trim_start().len();
        // The column of descriptions begins after two blanks.
        let names = line.trim_start().split("  ").next().unwrap();
        let is_description = !names.contains('.') && !names.contains('/');
        if is_description || indent > 8 {
            continue;
        }
        while directories.last().unwrap().0 >= indent && directories.len() > 1 {
            directories.pop();
        }
        let parent = directories.last().unwrap().1.clone();
        for name in names.split_whitespace().filter(|name| name.contains('.') || name.ends_with('/')) {
            let path = parent.join(name.trim_end_matches(['/', ':']));
            assert!(path.exists(), "the map of ARCHITECTURE.md names {}, which does not exist", path.display());
            if path.is_dir() {
                directories.push((indent, path));
            }
        }
    }
}

#[test]
fn path_of_a_confirmation_has_at_most_twenty_functions_which_exist() {
    let text = architecture();
    let section = text.split("\n## ").find(|section| section.starts_with("From confirm to the wire")).unwrap();
    let stops: Vec<_> = section.lines().filter(|line| line.starts_with("| ") && line.contains(".rs`")).collect();
    assert!((10..=MAX_STOPS).contains(&stops.len()), "{} stops", stops.len());
    for stop in stops {
        let words: Vec<_> = stop.split('`').skip(1).step_by(2).take(2).collect();
        let [file, function] = words[..] else { panic!("a stop without file and function: {stop}") };
        let source =
            fs::read_to_string(root().join("src").join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        let is_there = ["fn ", "fn r#"].iter().any(|start| {
            source.contains(&format!("{start}{function}(")) || source.contains(&format!("{start}{function}<"))
        });
        assert!(is_there, "{file} has no function {function}, which ARCHITECTURE.md names");
    }
}
