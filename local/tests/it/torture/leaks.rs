//! What a crash leaves, and what everything else left: no key, in no form.

use std::{
    fs,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE},
};
use form_urlencoded::byte_serialize;
use serde_json::json;

use super::{CANARY, Place, kept, key, under, unlimited};
use crate::harness::{PERSON, clerk, command, start};

/// `secret` as it is and as it could leak.
pub(crate) fn forms(secret: &str) -> Vec<(&'static str, Vec<u8>)> {
    let hex: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
    let url: String = byte_serialize(secret.as_bytes()).collect();
    // `%2F` as `%2f`: the letters that stand for themselves stay.
    let mut escapes = url.split('%');
    let mut url_lower = escapes.next().unwrap_or_default().to_owned();
    for escape in escapes {
        let (digits, rest) = escape.split_at(2);
        url_lower.push_str(&format!("%{}{rest}", digits.to_lowercase()));
    }
    let mut forms = vec![
        ("plain", secret.to_owned()),
        ("reversed", secret.chars().rev().collect()),
        ("HEX", hex.to_uppercase()),
        ("hex", hex),
        ("URL", url),
        ("URL in lower case", url_lower),
        ("JSON with slashes escaped", secret.replace('/', "\\/")),
    ];
    for shift in 0..3 {
        for (name, engine) in [("base64", &STANDARD), ("base64 for URLs", &URL_SAFE)] {
            let text = engine.encode([&vec![b'x'; shift], secret.as_bytes()].concat());
            // Without the characters that depend on what stands before and after.
            forms.push((name, text[4..text.len() - 4].to_owned()));
        }
    }
    let bytes = forms
        .into_iter()
        .map(|(name, text)| (name, text.into_bytes()));
    let utf16 = secret.encode_utf16().flat_map(u16::to_le_bytes).collect();
    bytes.chain([("UTF-16", utf16)]).collect()
}

/// All below it.
pub(crate) fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let all = entries.flat_map(|path| match path.is_dir() {
        true => files(&path),
        false => vec![path],
    });
    all.collect()
}

/// Where a key is in a file, and in which form; a developer's own files are where it belongs.
fn leaks(folder: &Path) -> (usize, Vec<String>) {
    let (forms, mut found, mut searched) = (forms(CANARY), Vec::new(), 0);
    for file in files(folder) {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        if name.starts_with(".env") || name == "keys.env" || !file.is_file() {
            continue;
        }
        searched += 1;
        let bytes = fs::read(&file).unwrap();
        for (form, needle) in &forms {
            if bytes.windows(needle.len()).any(|window| window == needle) {
                found.push(format!("{} ({form})", file.display()));
            }
        }
    }
    (searched, found)
}

#[test]
fn every_form_of_a_leak_is_seen() {
    let place = tempfile::tempdir().unwrap();
    for (n, (_, bytes)) in forms(CANARY).iter().enumerate() {
        fs::write(
            place.path().join(n.to_string()),
            [b"before ", bytes.as_slice(), b" after"].concat(),
        )
        .unwrap();
    }
    fs::write(place.path().join("nothing"), "CaNaRy").unwrap();
    let (searched, found) = leaks(place.path());
    let files: std::collections::BTreeSet<_> = found
        .iter()
        .filter_map(|line| line.split(' ').next())
        .collect();
    assert_eq!(
        (searched, files.len()),
        (forms(CANARY).len() + 1, forms(CANARY).len()),
        "{found:?}"
    );
}

#[tokio::test]
async fn a_server_that_crashes_with_a_key_in_its_memory_leaves_no_core_dump() {
    let place = Place::new("core");
    let mut plain = command(place.path(), &["--port", "0", "--production", "--stand-in"]);
    unlimited(clerk(&mut plain));
    let unbounded = "ulimit -c unlimited; exec \"$0\" \"$@\"";
    let mut with_cores = under(&["sh", "-c", unbounded], &plain);
    let mut server = start(&mut with_cores);
    assert_eq!(
        server
            .save(Some(PERSON), "gemini", &key("core-0001"))
            .await
            .0,
        200
    );
    let prompt = json!({"prompt": "Hello"});
    assert_eq!(
        server
            .call("POST", "/api/generate", Some(PERSON), Some(prompt))
            .await
            .0,
        200
    );
    Command::new("kill")
        .args(["-ABRT", &server.child.id().to_string()])
        .status()
        .unwrap();
    let status = server.child.wait().unwrap();
    assert!(
        status.signal().is_some() && !status.core_dumped(),
        "{status:?}"
    );
    let (searched, found) = leaks(place.path());
    assert!(searched >= 3 && found.is_empty(), "{found:?}");
}

/// The last of the long version: everything that the others said and wrote.
#[test]
#[ignore = "looks through what scripts/torture has kept"]
fn nothing_that_was_said_or_written_holds_a_key() {
    let folder = kept().expect("TORTURE names a folder");
    let (searched, found) = leaks(&folder);
    assert!(searched >= 20, "{searched} files");
    assert!(
        found.is_empty(),
        "{} of {searched}:\n{}",
        found.len(),
        found.join("\n")
    );
}
