//! What a hundred thousand accounts and clients cost a request: picked at random for each, and kept by a connection.
//!
//! The store is filled beforehand, in the format of `src/token/store/file.rs`: a hundred thousand token calls would be
//! another experiment.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sha2::{Digest as _, Sha256};
use weigate_bench::{app_id, client_key, token};

use crate::load::Loader;
use crate::origin::Origin;
use crate::report::{Crowd, Report};
use crate::subject::{self, Kind, Mode, Running, Wire, hex};
use crate::wrk::{self, Load};
use crate::{Anyhow, Bench, http, proc};

const CONNECTIONS: usize = 64;

/// Reading so many accounts takes a while.
const START_MAX: Duration = Duration::from_secs(300);

pub fn run(bench: &Bench, report: &mut Report) -> Anyhow<()> {
    if !bench.wants(Kind::Weigate) {
        return Ok(());
    }
    for round in 1..=bench.options.rounds {
        // One, the crowd, and a tenth of it: what grows with the number shows in three points.
        let mut sizes = vec![1, bench.options.accounts / 10, bench.options.accounts];
        sizes.retain(|accounts| *accounts > 0);
        sizes.sort_unstable();
        sizes.dedup();
        fastrand::shuffle(&mut sizes);
        for accounts in sizes {
            one(bench, report, accounts, round)?;
        }
    }
    Ok(())
}

fn one(bench: &Bench, report: &mut Report, accounts: usize, round: usize) -> Anyhow<()> {
    let mode = Mode::Core;
    let origin = Origin::start(bench, mode.load_cpus())?;
    let dir = bench.run.join(format!("accounts-{accounts}"));
    if dir.exists() {
        fs::remove_dir_all(&dir)?;
    }
    fs::create_dir_all(&dir)?;
    let port = subject::free_port()?;
    let config = subject::weigate_config(&dir, port, Wire::Plain, mode, &origin, bench)?;
    write_accounts(&dir, &config, accounts)?;
    let running = Running::spawn(subject::weigate_command(&config, mode.subject_cpus(), bench)?, port, &dir)?;
    let ready = http::wait_until_good(port, weigate_bench::TARGET, START_MAX)?;
    let called = origin.control("/-/state")?.token_calls;
    if called > 0 {
        return Err(format!("the prepared store was not taken: {called} token calls").into());
    }
    // What is made for an account at its first request is no cost of a request.
    load(port, accounts, "each", 0)?;
    load(port, accounts, "random", bench.options.warm_up_s.max(1))?;
    let memory_kib = proc::memory_kib(&running.pids);
    let mut picks = vec![true, false];
    fastrand::shuffle(&mut picks);
    if accounts == 1 {
        picks.truncate(1);
    }
    for is_random in picks {
        let measured = wrk::measured(bench, &running, &origin, || {
            load(port, accounts, if is_random { "random" } else { "sticky" }, bench.options.seconds)
        })?;
        report.crowd(Crowd { accounts, is_random, round, memory_kib, ready, measured });
    }
    Ok(())
}

fn load(port: u16, accounts: usize, pick: &str, seconds: u64) -> Anyhow<Load> {
    let numbers = [usize::from(port), CONNECTIONS, usize::try_from(seconds)?, accounts]
        .map(|number| number.to_string());
    let mut arguments = vec!["closed".to_owned()];
    arguments.extend(numbers);
    arguments.push(pick.to_owned());
    let mut loader = Loader::start(Mode::Core.load_cpus(), &arguments)?;
    let said = loader.said()?;
    loader.end()?;
    if said["bad"].as_u64() != Some(0) {
        return Err(format!("bad answers: {said}").into());
    }
    let number = |name: &str| said[name].as_f64().ok_or_else(|| format!("the loader does not say {name}"));
    Ok(Load {
        requests: number("requests")? as u64,
        seconds: number("seconds")?,
        p50_us: number("p50_us")?,
        p99_us: number("p99_us")?,
    })
}

/// Replaces the one account and client in `config` by many, and fills the store.
fn write_accounts(dir: &Path, config: &Path, accounts: usize) -> Anyhow<()> {
    let text = fs::read_to_string(config)?;
    let mut text = text.split("[[accounts]]").next().unwrap_or_default().to_owned();
    let state = dir.join("state");
    fs::create_dir_all(&state)?;
    fs::set_permissions(&state, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    for index in 0..accounts {
        let (name, app_id) = (format!("a{index}"), app_id(index));
        let key = hex(&Sha256::digest(client_key(index)));
        write!(
            text,
            "[[accounts]]\nname = \"{name}\"\napp_id = \"{app_id}\"\napp_secret_env = \"BENCH_APP_SECRET\"\n\
             [[clients]]\nname = \"c{index}\"\nkey_sha256 = \"{key}\"\naccounts = [\"{name}\"]\n"
        )?;
        let stored = format!(
            r#"{{"account":"{name}","app_id":"{app_id}","access_token":"{}","obtained_at":{now},"expires_at":{},"fence":0}}"#,
            token(&app_id, 0),
            now + 7200
        );
        let digest = hex(&Sha256::digest(stored.as_bytes()));
        fs::write(state.join(format!("{name}.token")), format!("weigate-token 1 {digest}\n{stored}"))?;
    }
    fs::write(config, text)?;
    Ok(())
}
