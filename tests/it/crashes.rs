//! Killed at any system call on its state, weigate comes back by itself: with the old token, the new one, or a fetch.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use rustix::process::{Pid, Signal};
use weigate::sandbox::{Endpoint, Quotas, Sandbox, SandboxAccount, SandboxOptions};
use weigate::token::TokenStore as _;
use weigate::token::store::{FileStore, Stored};
use weigate::types::{AccessToken, AccountName, AppId, UnixSeconds};

use crate::harness::{
    APP_ID, APP_SECRET, Binary, CLIENT_KEY, PATIENCE, STABLE_TOKEN, Setup, client, client_lines, note, until,
};
use crate::tools::{Trap, trap};

/// `shop`, which every [`Setup`] has, and others; enough of them for two hundred steps.
const ACCOUNTS: [(&str, &str); 8] = [
    ("shop", APP_ID),
    ("a1", "wx00000000000000a1"),
    ("a2", "wx00000000000000a2"),
    ("a3", "wx00000000000000a3"),
    ("a4", "wx00000000000000a4"),
    ("a5", "wx00000000000000a5"),
    ("a6", "wx00000000000000a6"),
    ("a7", "wx00000000000000a7"),
];

const BLOB: &str = "placeholder-key.blob";

/// Everything that the store does to files.
const CALLS: &str = "openat,mkdir,unlink,rename,write,fsync,flock,getdents64,statx,read,close";

/// What lies in the directory before the start.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Before {
    /// Not even the directory.
    Nothing,
    /// A token of every account that has just died, and a write of each that was cut off.
    OldTokens,
}

/// The `nth` such call of a thread on this file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Step {
    call: String,
    file: PathBuf,
    nth: usize,
}

/// A directory, a configuration and a WeChat of its own.
struct Scene {
    wechat: Sandbox,
    dir: Arc<tempfile::TempDir>,
    config: PathBuf,
    before: Before,
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_kills_at_any_step_of_a_save_and_as_many_clean_restarts() {
    let mut cases = Vec::new();
    for before in [Before::Nothing, Before::OldTokens] {
        cases.extend(steps(before).await.into_iter().map(|step| (before, step)));
    }
    let count = cases.len();
    // One for all: making a client takes longer than a restart.
    let client = &client();
    let ends = futures_util::stream::iter(cases)
        .map(|(before, step)| async move {
            let was_killed = check_kill(client, before, &step).await;
            (step.call, was_killed)
        })
        .buffer_unordered(4)
        .collect::<Vec<_>>()
        .await;
    let mut hits = BTreeMap::<String, usize>::new();
    for (call, _) in ends.iter().filter(|(_, was_killed)| *was_killed) {
        *hits.entry(call.clone()).or_default() += 1;
    }
    let killed: usize = hits.values().sum();
    note(&format!("{count} restarts, all clean, after {killed} kills: {hits:?}"));
    // Which thread of several does what differs from run to run; a few steps are so never reached.
    assert!(count >= 200 && killed * 10 >= count * 9, "{killed} kills in {count} runs");
    for call in ["openat", "mkdir", "unlink", "write", "fsync", "rename", "close"] {
        assert!(hits.contains_key(call), "never killed at {call}: {hits:?}");
    }
}

/// The steps of a run that nothing happens to.
async fn steps(before: Before) -> BTreeSet<Step> {
    let scene = Scene::new(before).await;
    let written_to = scene.dir.path().join("calls");
    let looks_on = Trap {
        paths: files(&scene),
        calls: CALLS.to_owned(),
        does: None,
        written_to: Some(written_to.clone()),
    };
    let ended = scene.run(&looks_on).await;
    assert!(ended.success(), "{ended}");
    let text = std::fs::read_to_string(written_to).unwrap();
    let state = scene.dir.path().join("state");
    let mut counts = BTreeMap::<(String, String, PathBuf), usize>::new();
    for line in text.lines() {
        let Some((thread, (call, arguments))) = line
            .split_once(' ')
            .and_then(|(thread, rest)| Some((thread, rest.trim_start().split_once('(')?)))
        else {
            continue;
        };
        // Of a rename the first: where it lies before.
        let named = files(&scene).into_iter().filter_map(|path| {
            let at = [format!("{}\"", path.display()), format!("{}>", path.display())]
                .iter()
                .filter_map(|text| arguments.find(text))
                .min()?;
            Some((at, path))
        });
        let Some((_, path)) = named.min() else { continue };
        let file = path.strip_prefix(&state).unwrap().to_owned();
        *counts.entry((thread.to_owned(), call.to_owned(), file)).or_default() += 1;
    }
    let steps: BTreeSet<Step> = counts
        .into_iter()
        .flat_map(|((_, call, file), count)| {
            (1..=count).map(move |nth| Step { call: call.clone(), file: file.clone(), nth })
        })
        .collect();
    assert!(steps.iter().all(|step| CALLS.contains(&step.call)), "{steps:?}");
    steps
}

/// Every file that the store may touch, the directory among them.
fn files(scene: &Scene) -> Vec<PathBuf> {
    let state = scene.dir.path().join("state");
    let names = ACCOUNTS.iter().map(|(account, _)| format!("{account}.token")).chain([BLOB.to_owned()]);
    let both = names.flat_map(|name| [format!(".{name}.tmp"), name]);
    [state.clone(), state.join(".lock")].into_iter().chain(both.map(|name| state.join(name))).collect()
}

/// Says whether the kill hit.
async fn check_kill(client: &reqwest::Client, before: Before, step: &Step) -> bool {
    let scene = Scene::new(before).await;
    let file = scene.dir.path().join("state").join(&step.file);
    let file = if step.file.as_os_str().is_empty() { scene.dir.path().join("state") } else { file };
    let kills = Trap {
        paths: vec![file],
        calls: step.call.clone(),
        does: Some(format!("signal=KILL:when={}", step.nth)),
        written_to: None,
    };
    let ended = scene.run(&kills).await;
    let was_killed = ended.signal() == Some(Signal::KILL.as_raw());
    assert!(was_killed || ended.success(), "{before:?} {step:?}: {ended}");

    // On the disk is the old token or the new one, whole; before the first save there may be none.
    let counters = until(&scene.wechat, |counters| counters.in_flight == 0).await;
    let calls = counters.token_calls_at(STABLE_TOKEN);
    let mut to_fetch = 0;
    for (account, app_id) in ACCOUNTS {
        let text = std::fs::read_to_string(scene.state().join(format!("{account}.token"))).ok();
        let newest = scene.wechat.control().current_token(app_id, Endpoint::StableToken).unwrap();
        let has = |token: &str| text.as_ref().is_some_and(|text| text.contains(&format!("\"{token}\"")));
        let is_new = newest.as_ref().is_some_and(|newest| has(newest));
        let is_old = has(&old_token(account));
        match before {
            Before::Nothing => assert!(is_new || text.is_none(), "{step:?}: {text:?}"),
            Before::OldTokens => assert!(is_new || is_old, "{step:?}: {text:?}"),
        }
        to_fetch += u64::from(!is_new);
    }

    let mut again = Binary::spawn(&scene.config, Arc::clone(&scene.dir), |_| {});
    // A request waits for its account's token; there is no need to ask whether weigate is ready.
    for (account, _) in ACCOUNTS {
        let url = again.url(&format!("/@{account}/cgi-bin/user/info?openid=o6"));
        let answer = client.get(url).bearer_auth(CLIENT_KEY).timeout(PATIENCE).send().await.unwrap();
        let text = answer.text().await.unwrap();
        assert!(text.contains(r#""openid":"o6""#), "{before:?} {step:?}: {text}");
    }
    let counters = scene.wechat.control().counters();
    assert_eq!(counters.bad_token_calls, 0, "{before:?} {step:?}");
    assert_eq!(
        counters.token_calls_at(STABLE_TOKEN),
        calls + to_fetch,
        "{before:?} {step:?}: a token was not taken"
    );
    // A stop ends with the last token stored.
    again.signal(Signal::TERM);
    let ended = tokio::task::block_in_place(|| again.wait());
    assert!(ended.success(), "{before:?} {step:?}: {ended}\n{}", again.log());
    assert!(!again.log().contains("\"ERROR\""), "{before:?} {step:?}:\n{}", again.log());
    assert_eq!(scene.names(), Scene::whole(), "{before:?} {step:?}");
    was_killed
}

/// What the account had before, which is no token of the sandbox's.
fn old_token(account: &str) -> String {
    format!("91_old_token_of_{account}")
}

// === impl Scene ===

impl Scene {
    async fn new(before: Before) -> Self {
        let options = SandboxOptions {
            accounts: ACCOUNTS.iter().map(|(_, app_id)| SandboxAccount::new(*app_id, APP_SECRET)).collect(),
            quotas: Quotas::Unlimited,
            ..SandboxOptions::default()
        };
        let wechat = Sandbox::start(options).await.unwrap();
        let names: Vec<_> = ACCOUNTS.iter().map(|(name, _)| format!("\"{name}\"")).collect();
        let may = format!("accounts = [{}]", names.join(", "));
        let mut setup = Setup::new().with_file_store().clients(&client_lines("orders", CLIENT_KEY, &may));
        for (name, app_id) in ACCOUNTS.iter().skip(1) {
            setup = setup.and(&format!(
                "[[accounts]]\nname = \"{name}\"\napp_id = \"{app_id}\"\napp_secret_file = \"secret\""
            ));
        }
        let config = setup.write(&wechat);
        let scene = Self { wechat, dir: Arc::clone(&setup.dir), config, before };
        if before == Before::OldTokens {
            scene.save_old_tokens().await;
        }
        scene
    }

    async fn save_old_tokens(&self) {
        let store = FileStore::open(&self.state()).unwrap();
        let now = UnixSeconds::now();
        for (account, app_id) in ACCOUNTS {
            let old = Stored {
                access_token: AccessToken::parse(&old_token(account)).unwrap(),
                obtained_at: UnixSeconds(now.0 - 7200),
                expires_at: now,
                fence: 0,
            };
            let account = AccountName::parse(account).unwrap();
            store.save(&account, &AppId::parse(app_id).unwrap(), &old).await.unwrap();
            std::fs::write(self.state().join(format!(".{account}.token.tmp")), "weigate-tok").unwrap();
        }
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    fn names(&self) -> BTreeSet<String> {
        let entries = std::fs::read_dir(self.state()).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// All that is there when nothing is going on.
    fn whole() -> BTreeSet<String> {
        let tokens = ACCOUNTS.iter().map(|(account, _)| format!("{account}.token"));
        tokens.chain([BLOB.to_owned(), ".lock".to_owned()]).collect()
    }

    /// Runs the binary until it is killed or, when everything is stored, stopped.
    async fn run(&self, under: &Trap) -> ExitStatus {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weigate"));
        command.arg("serve").arg("--config").arg(&self.config);
        trap(&mut command, under);
        let log = std::fs::File::create(self.dir.path().join("log")).unwrap();
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let pid = Pid::from_child(&child);
        let ended = tokio::task::spawn_blocking(move || child.wait().unwrap());
        tokio::pin!(ended);
        let started = tokio::time::Instant::now();
        loop {
            // A pause between two looks, not a wait.
            match tokio::time::timeout(Duration::from_millis(5), &mut ended).await {
                Ok(ended) => return ended.unwrap(),
                Err(_) if self.all_is_stored() => break,
                Err(_) => {}
            }
            if started.elapsed() > PATIENCE {
                rustix::process::kill_process(pid, Signal::KILL).unwrap();
                panic!("neither killed nor done: {under:?}\n{}", text_of(&self.dir.path().join("log")));
            }
        }
        // Too late where it ends at this very moment.
        let _sent = rustix::process::kill_process(pid, Signal::TERM);
        ended.await.unwrap()
    }

    fn all_is_stored(&self) -> bool {
        let is_new = |account: &str| {
            let text = text_of(&self.state().join(format!("{account}.token")));
            !text.is_empty() && (self.before == Before::Nothing || !text.contains(&old_token(account)))
        };
        self.state().exists()
            && self.names() == Self::whole()
            && ACCOUNTS.iter().all(|(account, _)| is_new(account))
    }
}

fn text_of(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}
