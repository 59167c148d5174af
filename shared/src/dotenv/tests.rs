//! Reading as python-dotenv reads, edits of one line, and what becomes of the file on disk.

use std::{
    fs::Permissions,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
};

use proptest::prelude::*;

use super::*;

fn file_with(text: &str) -> (tempfile::TempDir, DotenvFile) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(".env");
    fs::write(&path, text).unwrap();
    (folder, DotenvFile::creating_folder(path))
}

fn after_set(text: &str) -> String {
    let (_folder, file) = file_with(text);
    file.set("GEMINI_API_KEY", "new").unwrap();
    fs::read_to_string(file.path()).unwrap()
}

/// Each text, and what `dotenv_values(interpolate=False)` of python-dotenv 1.2.1 makes of it.
#[test]
fn a_file_is_read_as_python_dotenv_reads_it() {
    type Read<'a> = &'a [(&'a str, Option<&'a str>)];
    let texts: &[(&str, Read<'_>)] = &[
        (
            "A=AQ.abc$defghijklmnop",
            &[("A", Some("AQ.abc$defghijklmnop"))],
        ),
        (
            "A=\"AQ.abc$def${HOME}\"",
            &[("A", Some("AQ.abc$def${HOME}"))],
        ),
        (
            "N=Bob's app\nA=1",
            &[("N", Some("Bob's app")), ("A", Some("1"))],
        ),
        ("N=My App\nA=1", &[("N", Some("My App")), ("A", Some("1"))]),
        ("A=AQ.abc\\def", &[("A", Some("AQ.abc\\def"))]),
        ("A=one#two #three", &[("A", Some("one#two"))]),
        ("A= # c", &[("A", Some("# c"))]),
        (
            "A='x'#c\nB=\"y\" # c",
            &[("A", Some("x")), ("B", Some("y"))],
        ),
        ("A='x' y\nB=2", &[("B", Some("2"))]),
        (
            "  export  A = x \r\nB=2\r\n",
            &[("A", Some("x")), ("B", Some("2"))],
        ),
        (
            "A='one\r\ntwo'\rB=2",
            &[("A", Some("one\ntwo")), ("B", Some("2"))],
        ),
        ("A\nB=", &[("A", None), ("B", Some(""))]),
        ("A=1\nA", &[("A", Some("1")), ("A", None)]),
        (
            "export\nexport=1",
            &[("export", None), ("export", Some("1"))],
        ),
        ("a note line\n=1\nA=1", &[("A", Some("1"))]),
        ("A='open\nB=2", &[("B", Some("2"))]),
        ("A='open\nB=Bob's\nC=3", &[("C", Some("3"))]),
        ("A='x\\", &[]),
        ("A='x\\'\nB=2", &[("A", Some("x\\")), ("B", Some("2"))]),
        (r#"A='a\'b\\c\n'"#, &[("A", Some(r"a'b\c\n"))]),
        (
            r#"A="a\"b\\c\n\t\q\$""#,
            &[("A", Some("a\"b\\c\n\t\\q\\$"))],
        ),
        ("'A B'=1\n''=2", &[("A B", Some("1"))]),
        (
            "\u{feff}A=1\nB=2",
            &[("\u{feff}A", Some("1")), ("B", Some("2"))],
        ),
        (
            "A=x\u{a0}#c\nB\u{a0}=\u{1c}y\u{3000}",
            &[("A", Some("x")), ("B", Some("y"))],
        ),
        ("A=x\u{c}B=2\u{85}", &[("A", Some("x\u{c}B=2"))]),
    ];
    for (text, expected) in texts {
        let contents = Contents::parse(text.as_bytes().to_vec()).unwrap();
        let read: Vec<_> = contents
            .assigned
            .iter()
            .map(|one| (one.name.as_str(), one.value.as_deref()))
            .collect();
        assert_eq!(read, *expected, "{text:?}");
    }
}

#[test]
fn a_line_that_cannot_be_read_is_named_by_number_and_costs_no_other() {
    let contents = |text: &str| Contents::parse(text.as_bytes().to_vec()).unwrap();
    let read = contents("# c\r\n\r\nsecret words\r\nA=1\r\nB='it\r\nC=Bob's\r\nD=4\r\n");
    assert_eq!((read.get("A"), read.get("D")), (Some("1"), Some("4")));
    assert_eq!(
        read.complaints,
        [
            "line 3 cannot be read: it is not NAME=value, or a quote stays open",
            "lines 5 to 6 cannot be read: a quote closes in a later line",
        ]
    );
    assert_eq!(read.assigned[1].line, 7);
    let marked = contents("\u{feff}A=1\n").complaints;
    assert!(
        marked[0].starts_with("line 1 begins with a byte order mark"),
        "{marked:?}"
    );
    assert!(contents("A=1\n# Bob's\nB\n").complaints.is_empty());
}

#[test]
fn a_file_that_is_not_utf_8_is_refused_and_says_what_it_is() {
    let utf16 = |little: bool| -> Vec<u8> {
        let units = "\u{feff}GEMINI_API_KEY=x\n".encode_utf16();
        units
            .flat_map(|unit| match little {
                true => unit.to_le_bytes(),
                false => unit.to_be_bytes(),
            })
            .collect()
    };
    for (bytes, said) in [
        (utf16(true), "it is UTF-16 text; save it as UTF-8"),
        (utf16(false), "it is UTF-16 text; save it as UTF-8"),
        (
            b"A=1\r\n# M\xfcller\r\n".to_vec(),
            "line 2 is not UTF-8 text; save the file as UTF-8",
        ),
    ] {
        let (_folder, file) = file_with("");
        fs::write(file.path(), &bytes).unwrap();
        let errors = [
            file.get("A").unwrap_err(),
            file.set("A", "2").unwrap_err(),
            file.remove("A").unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.to_string(), said);
        }
        assert_eq!(fs::read(file.path()).unwrap(), bytes);
    }
}

#[test]
fn a_key_behind_a_byte_order_mark_goes_with_the_mark() {
    for text in ["\u{feff}A=old\nB=2\n", "\u{feff}export A=old\nB=2\n"] {
        let (_folder, file) = file_with(text);
        file.remove("A").unwrap();
        assert_eq!(
            fs::read_to_string(file.path()).unwrap(),
            "B=2\n",
            "{text:?}"
        );
    }
}

/// A file that is a mount point, as Docker makes of one that it binds.
#[test]
fn a_bind_mounted_file_is_written_in_place() {
    let (folder, bound) = file_with("A=1\nGEMINI_API_KEY=a-long-old-key\n");
    fs::create_dir(folder.path().join("app")).unwrap();
    let file = DotenvFile::creating_folder(folder.path().join("app/.env"));
    fs::write(file.path(), "").unwrap();
    let mount = std::process::Command::new("mount")
        .arg("--bind")
        .args([bound.path(), file.path()])
        .status();
    if !mount.is_ok_and(|status| status.success()) {
        // Needs root; `a_file_written_in_place_is_whole_at_every_step` stands in.
        return;
    }
    let _mounted = Unmount(file.path());
    let inode = fs::metadata(file.path()).unwrap().ino();
    for (value, text) in [
        ("new", "A=1\nGEMINI_API_KEY=new\n"),
        (
            "a-longer-key-than-any-before",
            "A=1\nGEMINI_API_KEY=a-longer-key-than-any-before\n",
        ),
    ] {
        file.set("GEMINI_API_KEY", value).unwrap();
        assert_eq!(fs::read_to_string(bound.path()).unwrap(), text);
    }
    file.could_remove("GEMINI_API_KEY").unwrap();
    file.remove("GEMINI_API_KEY").unwrap();
    assert_eq!(fs::read_to_string(bound.path()).unwrap(), "A=1\n");
    assert_eq!(fs::metadata(file.path()).unwrap().ino(), inode);
    assert_eq!(fs::read_dir(folder.path().join("app")).unwrap().count(), 1);
}

struct Unmount<'a>(&'a Path);

impl Drop for Unmount<'_> {
    fn drop(&mut self) {
        let unmount = std::process::Command::new("umount").arg(self.0).status();
        assert!(unmount.unwrap().success());
    }
}

#[test]
fn a_file_written_in_place_is_whole_at_every_step() {
    let (_folder, file) = file_with("A=1\nGEMINI_API_KEY=a-long-old-key\nB=2\n");
    let inode = fs::metadata(file.path()).unwrap().ino();
    disk::rewrite(file.path(), |before| {
        let before = String::from_utf8(before.to_vec()).unwrap();
        Ok(Some(line::set(&before, "GEMINI_API_KEY", "new")))
    })
    .unwrap();
    assert_eq!(
        fs::read_to_string(file.path()).unwrap(),
        "A=1\nGEMINI_API_KEY=new\nB=2\n"
    );
    assert_eq!(fs::metadata(file.path()).unwrap().ino(), inode);
    // Killed before it is cut: blank lines.
    let padded = Contents::parse(b"A=1\nGEMINI_API_KEY=new\nB=2\n\n\n\n".to_vec()).unwrap();
    assert_eq!((padded.assigned.len(), padded.complaints.len()), (3, 0));
}

#[test]
fn what_a_killed_writer_left_is_taken_away_and_a_developers_files_stay() {
    let (folder, file) = file_with("# mine\nDATABASE_URL=x\nGEMINI_API_KEY=new\n");
    let place = |name: &str| folder.path().join(name);
    let old = "# mine\nDATABASE_URL=x\nGEMINI_API_KEY=old\n";
    fs::create_dir(place(".env.user-api-keys")).unwrap();
    let ours = [
        ".env.user-api-keys/.env",
        ".env-hd7B7j",
        ".env-4kcdef",
        ".env-aBcdef",
    ];
    let stay = [
        ".env-backup",
        ".env-Docker",
        ".env-SAMPLE",
        ".env-stage2",
        ".env-202611",
        ".env-hd7B7",
        ".env-hd7B7j2",
        ".env.local",
        "env-hd7B7j",
    ];
    for name in ours.iter().chain(&stay) {
        fs::write(place(name), old).unwrap();
    }
    // With something that is nowhere else.
    fs::write(place(".env-aB3dEf"), format!("{old}OTHER=1\n")).unwrap();
    symlink(place(".env"), place(".env-xY1zzz")).unwrap();
    let mut gone = file.left_behind(&["GEMINI_API_KEY"]).unwrap();
    gone.sort();
    file.clean(&["GEMINI_API_KEY"]).unwrap();
    let mut expected = ours.map(place);
    expected.sort();
    assert_eq!(gone, expected);
    for name in stay.iter().chain(&[".env", ".env-aB3dEf", ".env-xY1zzz"]) {
        assert!(place(name).exists(), "{name}");
    }
    assert!(!place(".env.user-api-keys").exists());
    assert!(ours.iter().all(|name| !place(name).exists()));
    assert!(file.left_behind(&["GEMINI_API_KEY"]).unwrap().is_empty());
}

#[test]
fn a_writer_finds_what_a_killed_one_left_and_goes_on() {
    let (folder, file) = file_with("A=1\n");
    fs::create_dir(folder.path().join(".env.user-api-keys")).unwrap();
    fs::write(folder.path().join(".env.user-api-keys/.env"), "A=half").unwrap();
    file.set("A", "2").unwrap();
    assert_eq!(fs::read_to_string(file.path()).unwrap(), "A=2\n");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn others_who_may_read_it_are_seen() {
    let (_folder, file) = file_with("A=1\n");
    for (mode, seen) in [(0o600, false), (0o700, false), (0o640, true), (0o604, true)] {
        fs::set_permissions(file.path(), Permissions::from_mode(mode)).unwrap();
        assert_eq!(file.others_read(), seen, "{mode:o}");
    }
}

#[test]
fn only_the_one_line_changes() {
    for (before, after) in [
        ("", "GEMINI_API_KEY=new\n"),
        ("A=1", "A=1\nGEMINI_API_KEY=new\n"),
        ("A=1\r\n", "A=1\r\nGEMINI_API_KEY=new\r\n"),
        (
            "# top\n\nGEMINI_API_KEY=old\nB='x y'\n",
            "# top\n\nGEMINI_API_KEY=new\nB='x y'\n",
        ),
        (
            "GEMINI_API_KEY=old\r\nB=2\r\n",
            "GEMINI_API_KEY=new\r\nB=2\r\n",
        ),
        ("export GEMINI_API_KEY=old\n", "export GEMINI_API_KEY=new\n"),
        (
            "  GEMINI_API_KEY = 'o l d'  # mine\n",
            "  GEMINI_API_KEY = new  # mine\n",
        ),
        ("GEMINI_API_KEY=\n", "GEMINI_API_KEY=new\n"),
        (
            "GEMINI_API_KEY=1\nGEMINI_API_KEY=2\n",
            "GEMINI_API_KEY=1\nGEMINI_API_KEY=new\n",
        ),
        (
            "#GEMINI_API_KEY=old\n",
            "#GEMINI_API_KEY=old\nGEMINI_API_KEY=new\n",
        ),
        (
            "MY_GEMINI_API_KEY=x\n",
            "MY_GEMINI_API_KEY=x\nGEMINI_API_KEY=new\n",
        ),
        (
            "A=\"x\nGEMINI_API_KEY=inside\n\"\n",
            "A=\"x\nGEMINI_API_KEY=inside\n\"\nGEMINI_API_KEY=new\n",
        ),
        ("\u{feff}GEMINI_API_KEY=old\n", "GEMINI_API_KEY=new\n"),
        ("GEMINI_API_KEY=old", "GEMINI_API_KEY=new"),
        // A name alone, a comment without a space, a hash inside a value.
        ("GEMINI_API_KEY # mine\n", "GEMINI_API_KEY=new # mine\n"),
        ("GEMINI_API_KEY='old'#mine\n", "GEMINI_API_KEY=new #mine\n"),
        ("GEMINI_API_KEY=old#er\n", "GEMINI_API_KEY=new\n"),
        (
            "GEMINI_API_KEY=\"o\\\"ld\r\n\"\r\nB=2\r\n",
            "GEMINI_API_KEY=new\r\nB=2\r\n",
        ),
        // Bob's apostrophe is no quote.
        (
            "N=Bob's\nGEMINI_API_KEY=old\nM=Al's\n",
            "N=Bob's\nGEMINI_API_KEY=new\nM=Al's\n",
        ),
        // The mark stays where it stands before another name, and goes with a comment alone.
        (
            "\u{feff}A=1\nGEMINI_API_KEY=old\n",
            "\u{feff}A=1\nGEMINI_API_KEY=new\n",
        ),
    ] {
        assert_eq!(after_set(before), after, "{before:?}");
    }
}

#[test]
fn remove_takes_every_line_of_the_name_and_no_other() {
    let (_folder, file) = file_with("A=1\nexport GEMINI_API_KEY=1\n# c\nGEMINI_API_KEY='2'\nB=2");
    file.remove("GEMINI_API_KEY").unwrap();
    assert_eq!(fs::read_to_string(file.path()).unwrap(), "A=1\n# c\nB=2");
    assert_eq!(file.get("GEMINI_API_KEY").unwrap(), None);
}

#[test]
fn the_last_of_several_wins() {
    let (_folder, file) = file_with("A=1\nA=2\n");
    assert_eq!(file.get("A").unwrap().as_deref(), Some("2"));
}

#[test]
fn a_line_break_or_nul_in_a_value_is_refused_and_the_file_is_as_it_was() {
    let (_folder, file) = file_with("A=1\n");
    for value in ["a\nB=2", "a\rb", "a\0b"] {
        assert!(
            matches!(file.set("A", value), Err(DotenvError::Unwritable)),
            "{value:?}"
        );
    }
    assert_eq!(fs::read_to_string(file.path()).unwrap(), "A=1\n");
}

#[test]
fn an_edit_that_would_change_another_line_is_refused() {
    // The quote of the new value would close the open one.
    let (_folder, file) = file_with("A='open\nB=2\n");
    assert!(matches!(
        file.set("GEMINI_API_KEY", "n e w"),
        Err(DotenvError::UnsafeEdit)
    ));
    assert_eq!(fs::read_to_string(file.path()).unwrap(), "A='open\nB=2\n");
    file.set("GEMINI_API_KEY", "new").unwrap();
    assert_eq!(file.get("B").unwrap().as_deref(), Some("2"));
    assert_eq!(file.get("GEMINI_API_KEY").unwrap().as_deref(), Some("new"));
}

#[test]
fn a_created_file_is_the_developers_alone_and_a_mode_is_never_widened() {
    let folder = tempfile::tempdir().unwrap();
    let file = DotenvFile::creating_folder(folder.path().join("backend/.env"));
    file.set("A", "1").unwrap();
    let mode = |file: &DotenvFile| fs::metadata(file.path()).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&file), 0o600);
    for kept in [0o400, 0o640] {
        fs::set_permissions(file.path(), Permissions::from_mode(kept)).unwrap();
        file.set("A", &format!("{kept}")).unwrap();
        assert_eq!(mode(&file), kept);
    }
}

#[test]
fn a_missing_folder_is_created_only_where_it_is_ours() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("frontend/.env");
    let file = DotenvFile::in_existing_folder(path);
    assert!(matches!(file.set("A", "1"), Err(DotenvError::NoFolder)));
    assert!(!folder.path().join("frontend").exists());
    assert!(file.remove("A").is_ok());
}

#[test]
fn a_symlink_a_directory_and_a_fifo_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("target"), "A=1\n").unwrap();
    symlink(folder.path().join("target"), folder.path().join("link")).unwrap();
    fs::create_dir(folder.path().join("directory")).unwrap();
    let fifo = folder.path().join("fifo");
    let made = std::process::Command::new("mkfifo")
        .arg(&fifo)
        .status()
        .unwrap();
    assert!(made.success());
    for name in ["link", "directory", "fifo"] {
        let file = DotenvFile::creating_folder(folder.path().join(name));
        assert!(
            matches!(file.set("A", "2"), Err(DotenvError::NotAFile)),
            "{name}"
        );
        assert!(
            matches!(file.get("A"), Err(DotenvError::NotAFile)),
            "{name}"
        );
    }
    assert_eq!(
        fs::read_to_string(folder.path().join("target")).unwrap(),
        "A=1\n"
    );
}

#[test]
fn of_many_writers_at_once_none_is_lost() {
    let (_folder, file) = file_with("");
    std::thread::scope(|scope| {
        for writer in 0..8 {
            let file = &file;
            scope.spawn(move || {
                for n in 0..20 {
                    file.set(&format!("KEY_{writer}_{n}"), "v").unwrap();
                }
            });
        }
    });
    assert_eq!(file.contents().unwrap().assigned.len(), 160);
}

proptest! {
    #[test]
    fn every_value_that_is_written_reads_back_the_same(value in "[ -~]{0,40}", before in "(A=1|# c|B='x y'|export C=3|)(\r?\n){0,2}") {
        let (_folder, file) = file_with(&before);
        match file.set("GEMINI_API_KEY", &value) {
            Ok(()) => prop_assert_eq!(file.get("GEMINI_API_KEY").unwrap(), Some(value)),
            Err(DotenvError::Unwritable) => {
                prop_assert!(value.contains(['\'', '\\', '$']), "refused {:?}", value);
            }
            Err(error) => prop_assert!(false, "{error}"),
        }
    }

    #[test]
    fn setting_and_removing_gives_back_the_same_bytes(before in "((A=1|# c|B='x y'|export C=3|)(\r?\n)){0,6}") {
        let (_folder, file) = file_with(&before);
        file.set("GEMINI_API_KEY", "new").unwrap();
        file.remove("GEMINI_API_KEY").unwrap();
        prop_assert_eq!(fs::read_to_string(file.path()).unwrap(), before);
    }
}
