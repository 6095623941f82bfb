//! Debian's own tools around the real binary: strace, which lets a system call fail or kills at it, and libfaketime,
//! which sets the clock of one process. `tests/setup` installs both; where one is missing, a test says so and fails.
//!
//! strace works on a process that has made itself not dumpable as long as the tracer has `CAP_SYS_PTRACE`: root has
//! it; anyone else gets it in a user namespace of their own (without it strace can read no path, and injects nothing).

use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;

use crate::harness::Binary;

/// What a system call meets, as strace has it: the calls on these paths only.
#[derive(Debug, Clone)]
pub(crate) struct Trap {
    pub(crate) paths: Vec<PathBuf>,
    /// `fsync`, `rename` …, or several with commas between them.
    pub(crate) calls: String,
    /// `error=EIO`, `signal=KILL:when=2` …; `None` only looks on.
    pub(crate) does: Option<String>,
    /// Where the calls are written down, with the paths of their descriptors.
    pub(crate) written_to: Option<PathBuf>,
}

/// Runs the command under strace. The process that is started is the command itself; its tracer stands beside it.
pub(crate) fn trap(command: &mut Command, trap: &Trap) {
    let mut traced = if rustix::process::geteuid().is_root() {
        Command::new("strace")
    } else {
        let mut own_namespace = Command::new("unshare");
        own_namespace.args(["--map-root-user", "strace"]);
        own_namespace
    };
    let nowhere = Path::new("/dev/null");
    traced.args(["-D", "-f", "-qq", "-y", "-o"]).arg(trap.written_to.as_deref().unwrap_or(nowhere));
    for path in &trap.paths {
        traced.arg("-P").arg(path);
    }
    traced.arg("-e").arg(format!("trace={}", trap.calls));
    if let Some(does) = &trap.does {
        traced.arg("-e").arg(format!("inject={}:{does}", trap.calls));
    }
    traced.arg("--").arg(command.get_program()).args(command.get_args());
    let version = Command::new("strace").arg("-V").output();
    assert!(version.is_ok_and(|version| version.status.success()), "no strace: run tests/setup");
    *command = traced;
}

/// Ends the tracer, and with it what it does to the process, which goes on.
pub(crate) async fn untrap(binary: &Binary) {
    let tracer = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", binary.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("TracerPid:")).unwrap();
        line.trim().parse::<i32>().unwrap()
    };
    let pid = rustix::process::Pid::from_raw(tracer()).unwrap_or_else(|| panic!("nobody traces it"));
    rustix::process::kill_process(pid, Signal::KILL).unwrap();
    while tracer() != 0 {
        tokio::task::yield_now().await;
    }
}

/// The clock of one process, which can be set while it runs; its monotonic clock stays the machine's.
#[derive(Debug, Clone)]
pub(crate) struct FalseClock(PathBuf);

impl FalseClock {
    /// A clock that is ahead of the machine's by this; the file is where the process looks.
    pub(crate) fn new(file: PathBuf, ahead_s: i64) -> Self {
        let clock = Self(file);
        clock.set(ahead_s);
        clock
    }

    /// Sets it, in one step.
    pub(crate) fn set(&self, ahead_s: i64) {
        let aside = self.0.with_extension("new");
        std::fs::write(&aside, format!("{ahead_s:+}\n")).unwrap();
        std::fs::rename(&aside, &self.0).unwrap();
    }

    /// Gives it to a command.
    pub(crate) fn give_to(&self, command: &mut Command) {
        command
            .env("LD_PRELOAD", library())
            .env("FAKETIME_TIMESTAMP_FILE", &self.0)
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .env("NO_FAKE_STAT", "1");
    }
}

/// Takes away what libfaketime put into shared memory for a process that runs: it keeps it open, and leaves the names
/// behind when it is killed.
pub(crate) fn clear_shared_memory(pid: u32) {
    for name in [format!("faketime_shm_{pid}"), format!("sem.faketime_sem_{pid}")] {
        // Another version of libfaketime may need none.
        let _gone = std::fs::remove_file(Path::new("/dev/shm").join(name));
    }
}

/// The build of libfaketime for threads, wherever this machine's architecture has it.
fn library() -> PathBuf {
    let found = std::fs::read_dir("/usr/lib").unwrap().find_map(|entry| {
        let file = entry.ok()?.path().join("faketime/libfaketimeMT.so.1");
        file.exists().then_some(file)
    });
    found.unwrap_or_else(|| panic!("no libfaketime: run tests/setup"))
}
