//! A developer's `.env`, whatever is in it: an edit does what it says and nothing else, or nothing at all.

use std::{cell::LazyCell, fs};

use arbitrary::{Arbitrary, Unstructured};
use user_api_keys::dotenv::DotenvFile;

#[derive(Debug, Arbitrary)]
struct Input {
    file: Vec<u8>,
    name: u8,
    value: String,
    other: u8,
}

const NAMES: [&str; 4] = [
    "GEMINI_API_KEY",
    "EXA_API_KEY",
    "REACT_APP_COPILOTKIT_API_KEY",
    "A",
];

thread_local! {
    static FOLDER: LazyCell<tempfile::TempDir> = LazyCell::new(|| tempfile::tempdir().unwrap());
}

/// One input.
pub fn run(data: &[u8]) {
    let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(data)) else {
        return;
    };
    let path = FOLDER.with(|folder| folder.path().join(".env"));
    fs::write(&path, &input.file).unwrap();
    let file = DotenvFile::in_existing_folder(path.clone());
    let name = NAMES[usize::from(input.name) % NAMES.len()];
    let other = NAMES[usize::from(input.other) % NAMES.len()];
    let Ok(before) = file.get(other) else {
        assert!(
            std::str::from_utf8(&input.file).is_err(),
            "only what is no text is not read"
        );
        assert!(file.set(name, "x").is_err() && file.remove(name).is_err());
        assert_eq!(fs::read(&path).unwrap(), input.file);
        return;
    };
    match file.set(name, &input.value) {
        Ok(()) => assert_eq!(
            file.get(name).unwrap().as_deref(),
            Some(input.value.as_str())
        ),
        Err(_) => assert_eq!(fs::read(&path).unwrap(), input.file),
    }
    let written = fs::read(&path).unwrap();
    match file.remove(name) {
        Ok(()) => assert_eq!(file.get(name).unwrap(), None),
        Err(_) => assert_eq!(fs::read(&path).unwrap(), written),
    }
    if other != name {
        assert_eq!(file.get(other).unwrap(), before);
    }
    let beside = path.parent().unwrap();
    assert_eq!(
        fs::read_dir(beside).unwrap().count(),
        1,
        "no temporary file stays"
    );
}
