//! Killed at a write: whatever was acknowledged is there, what was not is there or is not, and a file is
//! the old one or the new one. `strace` kills at the n-th call that writes; the server is the real one.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::{fs::PermissionsExt, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use local::token;
use serde_json::{Value, json};

use super::{CANARY, INVOKE, KEYS, Place, key, leaks::files, open_gemini, times, under, unlimited};
use crate::harness::{Server, clerk, command, start};

/// Everything that changes a file.
const WRITES: &str = "write,pwrite64,fsync,fdatasync,linkat,rename,renameat,renameat2,ftruncate,unlink,unlinkat,fchmod";

/// As `command`, killed at the `n`th write of a thread of its.
fn killed_at(command: &Command, n: usize) -> Command {
    let (trace, inject) = (
        format!("trace={WRITES}"),
        format!("inject={WRITES}:signal=SIGKILL:when={n}"),
    );
    let quiet = [
        "strace",
        "-f",
        "-qqq",
        "-o",
        "/dev/null",
        "-e",
        "signal=none",
    ];
    under(
        &[&quiet[..], &["-e", &trace, "-e", &inject]].concat(),
        command,
    )
}

/// Which write a round dies at: one of the first `most`, in an order that a few rounds spread over.
fn write_of(round: usize, most: usize) -> usize {
    1 + (round * 89 + 31) % most
}

/// A server that may die at any time: its address, once it says one.
async fn dying(command: &mut Command) -> Option<(std::process::Child, String)> {
    use std::io::{BufRead as _, BufReader};
    let folder = command.get_current_dir().unwrap().to_owned();
    let log = fs::File::options()
        .append(true)
        .create(true)
        .open(folder.join("log"))
        .unwrap();
    let mut child = command.stderr(log).spawn().unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    let url = tokio::task::spawn_blocking(move || {
        let mut lines = out.lines().map_while(Result::ok);
        let line = lines.by_ref().find(|line| line.contains("http://"))?;
        let url = line
            .split_whitespace()
            .find(|word| word.starts_with("http://"))?;
        // Until it says so it is not ready.
        lines.find(|line| line.starts_with("stop "))?;
        Some(url.trim_end_matches('/').to_owned())
    });
    match url.await.unwrap() {
        Some(url) => Some((child, url)),
        None => {
            child.wait().unwrap();
            None
        }
    }
}

/// Ends what is traced, if it still lives: killed alone, strace would let it go.
fn end(strace: &mut std::process::Child) -> std::process::ExitStatus {
    let id = strace.id();
    let traced = fs::read_to_string(format!("/proc/{id}/task/{id}/children"));
    for id in traced.unwrap_or_default().split_whitespace() {
        Command::new("kill").args(["-KILL", id]).status().ok();
    }
    strace.wait().unwrap()
}

/// What a person has: what it may be, after what was acknowledged and what was under way.
#[derive(Debug, Default, Clone)]
struct Known {
    sure: Option<String>,
    perhaps: Option<Option<String>>,
}

fn serve(folder: &Path) -> Command {
    let mut command = command(folder, &["--port", "0", "--production", "--stand-in"]);
    unlimited(clerk(&mut command));
    command
}

async fn call(url: &str, method: &str, path: &str, user: &str, body: Option<Value>) -> Option<u16> {
    let client = reqwest::Client::builder()
        .timeout(Duration::from_secs(10))
        .build()
        .unwrap();
    let mut request = client.request(method.parse().unwrap(), format!("{url}{path}"));
    request = request.bearer_auth(token::sign(user).unwrap());
    if let Some(body) = body {
        request = request.json(&body);
    }
    request
        .send()
        .await
        .ok()
        .map(|answer| answer.status().as_u16())
}

async fn opened(server: &Server, user: &str) -> Option<String> {
    let event = open_gemini(user);
    let (status, answer) = server.call("POST", INVOKE, None, Some(event)).await;
    assert_eq!(
        (status, &answer["errorType"]),
        (200, &Value::Null),
        "{answer}"
    );
    answer["keys"]["gemini"]["api_key"]
        .as_str()
        .map(str::to_owned)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs strace: scripts/torture, or --short of it"]
async fn a_server_killed_at_any_write_of_a_save_a_delete_or_a_restore_loses_nothing_acknowledged() {
    let place = Place::new("crashes-server");
    let mut known: BTreeMap<String, Known> = BTreeMap::new();
    let (mut kills, mut acknowledged) = (0, 0);
    let rounds = times(7, 160);
    for round in 0..rounds {
        let n = write_of(round, 240);
        let Some((mut child, url)) = dying(&mut killed_at(&serve(place.path()), n)).await else {
            // At a write of its start.
            kills += 1;
            continue;
        };
        for step in 0..40 {
            let user = format!("user_crash{:04}", step % 8);
            let of = known.entry(user.clone()).or_default();
            let text = key(&format!("{n}-{step:04}"));
            let (method, path, body, then) = match step % 5 {
                3 if of.sure.is_some() => ("DELETE", format!("{KEYS}/gemini"), None, None),
                _ => (
                    "POST",
                    KEYS.to_owned(),
                    Some(json!({"provider": "gemini", "api_key": text})),
                    Some(text),
                ),
            };
            of.perhaps = Some(then.clone());
            match call(&url, method, &path, &user, body).await {
                Some(200 | 204) => {
                    acknowledged += 1;
                    *of = Known {
                        sure: then,
                        perhaps: None,
                    };
                }
                Some(status) => panic!("{status} from a server that lives"),
                None => break,
            }
        }
        let status = end(&mut child);
        kills += usize::from(status.signal().is_some() || !status.success());
        // Everybody now and then, and whoever is in doubt at once: nothing may write over the doubt.
        let everybody = round % 8 == 0 || round + 1 == rounds;
        let server = start(&mut serve(place.path()));
        let asked = known
            .iter_mut()
            .filter(|(_, of)| everybody || of.perhaps.is_some());
        for (user, of) in asked {
            let there = opened(&server, user).await;
            let may = there == of.sure || of.perhaps.as_ref() == Some(&there);
            assert!(may, "write {n}, {user}: {there:?} is not of {of:?}");
            *of = Known {
                sure: there,
                perhaps: None,
            };
        }
    }
    assert!(kills >= rounds / 2, "{kills} of {rounds} died");
    assert!(acknowledged >= rounds, "it got somewhere: {acknowledged}");
    place.keep(
        "kills",
        &format!("{kills} kills, {acknowledged} acknowledged writes"),
    );
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs strace: scripts/torture, or --short of it"]
async fn a_server_killed_at_any_write_leaves_the_old_env_file_or_the_new_one() {
    let place = Place::new("crashes-env");
    let folder = place.path().join("backend");
    fs::create_dir_all(&folder).unwrap();
    let file = folder.join(".env");
    let rest = "# of the developer\nDATABASE_URL='postgres://x'\n";
    fs::write(&file, rest).unwrap();
    let local = || {
        let mut command = command(place.path(), &["--port", "0", "--stand-in"]);
        unlimited(&mut command);
        command
    };
    let (mut kills, mut sure) = (0, rest.to_owned());
    let rounds = times(5, 80);
    for round in 0..rounds {
        let n = write_of(round, 120);
        let Some((mut child, url)) = dying(&mut killed_at(&local(), n)).await else {
            kills += 1;
            continue;
        };
        for step in 0..10 {
            let text = key(&format!("env-{n}-{step}"));
            let body = json!({"provider": "gemini", "api_key": text});
            let done = call(&url, "POST", KEYS, "user_aaaaaaaa1", Some(body)).await;
            let there = fs::read_to_string(&file).unwrap();
            let new = format!("{rest}GEMINI_API_KEY={text}\n");
            match done {
                Some(200) => {
                    assert_eq!(there, new, "write {n}: an acknowledged save is in the file")
                }
                Some(status) => panic!("{status} from a server that lives"),
                None => {
                    assert!(there == sure || there == new, "write {n}: torn: {there:?}");
                    no_key_for_others(&folder, &file);
                }
            }
            sure = there;
            if done.is_none() {
                break;
            }
        }
        kills += usize::from(!end(&mut child).success());
    }
    drop(start(&mut local()));
    assert_eq!(with_a_key(&folder), [file], "after a start");
    assert!(kills >= rounds / 2, "{kills} of {rounds} died");
    place.keep("kills", &format!("{kills} kills"));
}

/// Every file below `folder` with a key in it.
fn with_a_key(folder: &Path) -> Vec<PathBuf> {
    let holds = |file: &PathBuf| {
        let text = fs::read(file).unwrap();
        text.windows(CANARY.len())
            .any(|part| part == CANARY.as_bytes())
    };
    files(folder).into_iter().filter(holds).collect()
}

/// What a killed save leaves is its owner's alone, and a name that `.env` in a `.gitignore` holds for.
fn no_key_for_others(folder: &Path, file: &Path) -> usize {
    let mut left = with_a_key(folder);
    left.retain(|left| left != file);
    for left in &left {
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o077;
        assert_eq!(left.file_name(), file.file_name(), "{}", left.display());
        assert_eq!(
            mode(left) | mode(left.parent().unwrap()),
            0,
            "{}",
            left.display()
        );
    }
    left.len()
}

/// As somebody's own `kill -9`, at any time of a save.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_killed_while_it_saves_leaves_no_key_beside_env_and_loses_no_save() {
    let place = Place::new("kills-env");
    let folder = place.path().join("backend");
    fs::create_dir_all(&folder).unwrap();
    let file = folder.join(".env");
    fs::write(&file, "# of the developer\n").unwrap();
    let local = || {
        let mut command = command(place.path(), &["--port", "0", "--stand-in"]);
        unlimited(&mut command);
        command
    };
    let (rounds, mut acknowledged, mut left) = (times(4, 200), 0, 0);
    for round in 0..rounds {
        let mut server = start(&mut local());
        assert!(
            with_a_key(&folder).iter().all(|found| *found == file),
            "after a start"
        );
        let save = async |step: usize| {
            let text = key(&format!("kill-{round}-{step}"));
            let body = json!({"provider": "gemini", "api_key": text});
            let done = call(&server.url, "POST", KEYS, "user_aaaaaaaa1", Some(body)).await;
            assert_eq!(done, Some(200));
        };
        let line = |step| {
            let text = key(&format!("kill-{round}-{step}"));
            format!("# of the developer\nGEMINI_API_KEY={text}\n")
        };
        let began = Instant::now();
        save(0).await;
        let of_a_save = began.elapsed().as_micros() as u64;
        let kill = tokio::time::sleep(Duration::from_micros(fastrand::u64(..3 * of_a_save)));
        let mut done = 0;
        let saves = async {
            loop {
                save(done + 1).await;
                done += 1;
            }
        };
        tokio::select! {
            () = saves => {}
            () = kill => {}
        }
        server.child.kill().unwrap();
        server.child.wait().unwrap();
        let there = fs::read_to_string(&file).unwrap();
        assert!(
            there == line(done) || there == line(done + 1),
            "round {round}, {done} acknowledged: {there:?}"
        );
        acknowledged += done + 1;
        left += no_key_for_others(&folder, &file);
    }
    drop(start(&mut local()));
    assert_eq!(with_a_key(&folder), [file]);
    let said = format!(
        "{rounds} kills, {acknowledged} acknowledged saves, {left} left a temporary file until the next start"
    );
    place.keep("kills", &said);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs strace: scripts/torture, or --short of it"]
async fn a_rotation_and_an_import_killed_at_any_write_end_whole_when_they_are_run_again() {
    let place = Place::new("crashes-jobs");
    let env = place.path().join("keys.env");
    let owner = "user_import001";
    fs::write(
        &env,
        format!(
            "GEMINI_API_KEY='{}'\nEXA_API_KEY='{}'\n",
            key("import-0001"),
            key("import-0002")
        ),
    )
    .unwrap();
    let job = |args: &[&str]| {
        let mut command = command(place.path(), args);
        clerk(&mut command).env("DEPLOY_ENV", "production");
        command
    };
    let rotate = ["rotate", "--production"];
    let import = ["import-env", "--user", owner, "keys.env"];
    // Something to move, and people whose keys are compared.
    let server = start(&mut serve(place.path()));
    let people: Vec<_> = (0..12).map(|n| format!("user_rotate{n:04}")).collect();
    for user in &people {
        assert_eq!(server.save(Some(user), "gemini", &key(user)).await.0, 200);
    }
    drop(server);
    let mut kills = 0;
    let rounds = times(4, 60);
    for round in 0..rounds {
        let n = write_of(round, 64);
        for args in [rotate.as_slice(), &import] {
            let mut child = killed_at(&job(args), n)
                .stderr(Stdio::null())
                .stdout(Stdio::null())
                .spawn()
                .unwrap();
            kills += usize::from(!child.wait().unwrap().success());
        }
        if round % times(2, 4) == 1 {
            for args in [rotate.as_slice(), &import] {
                let done = job(args).output().unwrap();
                let said = String::from_utf8_lossy(&done.stderr);
                assert!(
                    done.status.success(),
                    "write {n}, {args:?}: {said} {}",
                    String::from_utf8_lossy(&done.stdout)
                );
            }
            let server = start(&mut serve(place.path()));
            for user in &people {
                assert_eq!(opened(&server, user).await, Some(key(user)), "write {n}");
            }
            assert_eq!(
                opened(&server, owner).await,
                Some(key("import-0001")),
                "write {n}"
            );
        }
    }
    assert!(kills >= rounds / 2, "{kills} of {} died", 2 * rounds);
    place.keep("kills", &format!("{kills} kills"));
}
