//! Reads every `<n>.env` of a folder and writes `read.json` beside them, for other languages' dotenv
//! libraries to compare.

use std::{collections::BTreeMap, fs, path::Path};

use user_api_keys::dotenv::Contents;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args()
        .nth(1)
        .ok_or("usage: dotenv_read <folder>")?;
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(Path::new(&folder))? {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "env") {
            let contents = Contents::parse(fs::read(&path)?)?;
            let assigned = contents.assigned.into_iter();
            // Of several with one name the last stays.
            let read: BTreeMap<_, _> = assigned.map(|one| (one.name, one.value)).collect();
            let stem = path.file_stem().unwrap_or_default();
            all.insert(stem.to_string_lossy().into_owned(), read);
        }
    }
    fs::write(
        Path::new(&folder).join("read.json"),
        serde_json::to_vec(&all)?,
    )?;
    Ok(())
}
