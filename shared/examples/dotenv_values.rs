//! Writes one `.env` file per value into a folder, and `expected.json` beside them, for other
//! languages' dotenv libraries to read back.

use std::{collections::BTreeMap, fs, path::Path};

use user_api_keys::dotenv::{DotenvError, DotenvFile};

const VALUES: usize = 400;
const LONGEST: usize = 40;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args()
        .nth(1)
        .ok_or("usage: dotenv_values <folder>")?;
    let folder = Path::new(&folder);
    let mut expected = BTreeMap::new();
    for n in 0..VALUES {
        let value = value(n);
        let path = folder.join(format!("{n}.env"));
        fs::write(
            &path,
            "# a comment\nOTHER='x y'\nexport GEMINI_API_KEY=old\n",
        )?;
        match DotenvFile::in_existing_folder(path.clone()).set("GEMINI_API_KEY", &value) {
            Ok(()) => drop(expected.insert(n.to_string(), value)),
            // Refused, because no quoting reads alike everywhere.
            Err(DotenvError::Unwritable) => fs::remove_file(path)?,
            Err(error) => return Err(error.into()),
        }
    }
    fs::write(folder.join("expected.json"), serde_json::to_vec(&expected)?)?;
    Ok(())
}

/// Printable ASCII of every kind, the same at each run; the first ones are every single character.
fn value(n: usize) -> String {
    let printable: Vec<char> = (' '..='~').collect();
    if let Some(c) = printable.get(n) {
        return format!("a{c}b");
    }
    let mut state = n as u64;
    let mut next = move || {
        // Knuth's linear congruential generator; only variety matters here.
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize
    };
    (0..=next() % LONGEST)
        .map(|_| printable[next() % printable.len()])
        .collect()
}
