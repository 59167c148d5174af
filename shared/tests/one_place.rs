//! What may be said in one place only.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use user_api_keys::provider::Provider;

/// Every Rust source of the workspace that is not a test.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| match path.is_dir() {
            true if path.ends_with("target") || path.ends_with("tests") => Vec::new(),
            true if path.file_name().unwrap().to_string_lossy().starts_with('.') => Vec::new(),
            true => sources(&path),
            false if path.ends_with("tests.rs") => Vec::new(),
            false if path.extension().is_some_and(|e| e == "rs") => vec![path],
            false => Vec::new(),
        })
        .collect()
}

/// The code of a file without its unit tests.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    text.split("#[cfg(test)]")
        .next()
        .unwrap_or_default()
        .to_owned()
}

#[test]
fn adding_a_provider_touches_one_place() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let files = sources(root);
    assert!(files.len() > 20, "the sources were found");
    // The required three have work of their own; the others are data in one table.
    for provider in Provider::ALL.iter().filter(|p| !p.facts().required) {
        let facts = provider.facts();
        let words = [
            format!("\"{}\"", facts.name),
            format!("Provider::{provider:?}"),
            facts.env.to_owned(),
        ];
        let mut mentions = Vec::new();
        for path in &files {
            let text = code(path);
            if words.iter().any(|word| text.contains(word)) {
                mentions.push(path.strip_prefix(root).unwrap());
            }
        }
        assert_eq!(
            mentions,
            [Path::new("shared/src/provider.rs")],
            "{provider}"
        );
    }
}

#[test]
fn only_config_reads_the_environment() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let reads = |path: &&PathBuf| code(path).contains("env::var");
    let readers: BTreeSet<_> = sources(root).iter().filter(reads).cloned().collect();
    // The embedded services record calls where the tests are run for that; no function is made of them.
    let recorder = root.join("local/embedded/src/recorder.rs");
    // What the functions are measured against reads its settings as its documentation says.
    let limit = root.join("bench/limit/src/bin/bare.rs");
    assert_eq!(
        readers,
        [limit, recorder, root.join("shared/src/config.rs")].into()
    );
}

#[test]
fn every_expose_says_why() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    for path in sources(root) {
        let text = code(&path);
        let lines: Vec<_> = text.lines().collect();
        for (n, line) in lines.iter().enumerate() {
            let exposes = line.contains(".expose()") || line.contains(".expose_secret()");
            let before = &lines[n.saturating_sub(4)..n];
            let says = before.iter().any(|line| line.contains("// EXPOSE:"));
            assert!(!exposes || says, "{}:{}", path.display(), n + 1);
        }
    }
}
