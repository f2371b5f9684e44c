//! Checks that docs/conformance.md has a row for each module of the plans, and names tests that exist.

use std::fs;
use std::path::Path;

use qrlogin_testing::test;

/// Numbers of modules: of the two basic plans, of the config plan, and of the logout plan.
const MODULES: [usize; 3] = [38, 1, 11];

#[test]
fn each_module_of_the_conformance_suite_has_a_test_that_exists_or_a_reason() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/conformance.md")).unwrap();
    let tables = page.split("\n| --- |").skip(1);
    let rows = tables.map(|table| table.lines().filter(|line| line.starts_with("| `oidcc-")).collect::<Vec<_>>());
    let rows: Vec<_> = rows.collect();
    assert_eq!(rows.iter().map(Vec::len).collect::<Vec<_>>(), MODULES);
    for row in rows.iter().flatten() {
        let cells: Vec<_> = row.trim_matches(['|', ' ']).split(" | ").collect();
        let (results, shown) = (&cells[1..cells.len() - 1], cells[cells.len() - 1]);
        match results[0] {
            "passed" => {
                let named = shown.strip_prefix('`').and_then(|rest| rest.split('`').next());
                let (file, test) = named.and_then(|named| named.split_once("::")).unwrap_or_else(|| panic!("{row}"));
                let source = fs::read_to_string(root.join(format!("tests/api/oauth/{file}.rs"))).unwrap();
                assert!(source.contains(&format!("fn {test}(")), "docs/conformance.md names {named:?}");
            }
            "not applicable" => assert!(shown.len() > 20, "no reason: {row}"),
            _ => panic!("no result: {row}"),
        }
        assert!(results.iter().all(|result| *result == results[0]), "{row}");
    }
}
