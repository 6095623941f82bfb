//! systemd's part, played by a few lines of Python: sockets that were bound before, and what is told back.

use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use rustix::process::Signal;

use crate::bare::Raw;
use crate::harness::{Binary, PATIENCE, Setup, get, wait_ready, wechat};

/// Passes a listening socket as systemd does: as descriptor 3, to this very process.
const ACTIVATE: &str = "
import os, socket, sys
listener = socket.fromfd(int(os.environ.pop('TEST_FD')), socket.AF_INET, socket.SOCK_STREAM)
os.dup2(listener.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[1], sys.argv[1:])
";

/// A listening socket that outlives the processes which are given it.
struct Socket {
    listener: std::net::TcpListener,
}

// === impl Socket ===

impl Socket {
    fn bind() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        rustix::io::fcntl_setfd(&listener, rustix::io::FdFlags::empty()).unwrap();
        Self { listener }
    }

    fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    /// Makes `command`, which starts weigate, start it with this socket.
    fn pass_to(&self, command: &mut Command) {
        use std::os::fd::AsRawFd as _;
        let arguments: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
        let program = command.get_program().to_owned();
        *command = Command::new("python3");
        command.arg("-c").arg(ACTIVATE).arg(program).args(arguments);
        command.env("TEST_FD", self.listener.as_raw_fd().to_string());
    }
}

fn listening_at(setup: &Setup, path: &Path, address: SocketAddr) {
    let text = std::fs::read_to_string(path).unwrap();
    let text =
        text.replace("[server]\nlisten = \"127.0.0.1:0\"", &format!("[server]\nlisten = \"{address}\""));
    std::fs::write(path, text).unwrap();
    assert!(setup.dir.path().exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_of_systemds_stays_open_over_a_restart_and_who_connects_meanwhile_is_served() {
    let wechat = wechat().await;
    let setup = Setup::new().with_file_store();
    let path = setup.write(&wechat);
    let socket = Socket::bind();
    listening_at(&setup, &path, socket.address());
    let start = || Binary::spawn(&path, Arc::clone(&setup.dir), |command| socket.pass_to(command));
    let mut weigate = start();
    wait_ready(weigate.admin).await;
    assert_eq!(weigate.address, socket.address());
    // More than there are workers, so that each has had one.
    for _time in 0..10 {
        assert_eq!(get(&weigate.url("/wxa/x")).await.status(), 200);
    }
    for _restart in 0..3 {
        weigate.signal(Signal::TERM);
        assert_eq!(tokio::task::block_in_place(|| weigate.wait()).code(), Some(0));
        // Nobody is there, and still nobody is refused.
        let mut early = Raw::connect(socket.address()).await;
        early.send(crate::bare::get_head("/wxa/x")).await;
        weigate = start();
        assert_eq!(early.reply().await.status, 200);
        wait_ready(weigate.admin).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_the_configuration_does_not_name_is_refused() {
    let wechat = wechat().await;
    let setup = Setup::new();
    let path = setup.write(&wechat);
    let socket = Socket::bind();
    let mut command = Command::new(env!("CARGO_BIN_EXE_weigate"));
    command.args(["serve", "--config", path.to_str().unwrap()]);
    socket.pass_to(&mut command);
    let ran = tokio::task::block_in_place(|| command.output()).unwrap();
    let said = String::from_utf8(ran.stderr).unwrap();
    assert_eq!(ran.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("cannot listen at {}", socket.address())), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn systemd_hears_of_start_reload_stop_and_that_weigate_turns() {
    let wechat = wechat().await;
    let setup = Setup::new().server("watch_files = false");
    let path = setup.write(&wechat);
    let told = UnixDatagram::bind(setup.dir.path().join("notify")).unwrap();
    told.set_read_timeout(Some(PATIENCE)).unwrap();
    let next = || {
        let mut message = [0; 256];
        let length = tokio::task::block_in_place(|| told.recv(&mut message)).unwrap();
        String::from_utf8(message[..length].to_vec()).unwrap()
    };
    // Skips what the watchdog hears.
    let wait_for = |state: &str| loop {
        let message = next();
        if message.lines().any(|line| line == state) {
            return message;
        }
        assert_eq!(message, "WATCHDOG=1\n", "instead of {state}");
    };
    let mut weigate = Binary::spawn(&path, Arc::clone(&setup.dir), |command| {
        // The watchdog's limit is for one process only, whose number it must know.
        let arguments: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
        let program = command.get_program().to_owned();
        *command = Command::new("sh");
        command.args(["-c", "WATCHDOG_PID=$$ exec \"$@\"", "sh"]).arg(program).args(arguments);
        command.env("NOTIFY_SOCKET", setup.dir.path().join("notify")).env("WATCHDOG_USEC", "300000");
    });
    wait_for("READY=1");
    wait_for("WATCHDOG=1");
    wait_for("WATCHDOG=1");
    weigate.signal(Signal::HUP);
    assert!(wait_for("RELOADING=1").contains("MONOTONIC_USEC="));
    wait_for("READY=1");
    weigate.signal(Signal::TERM);
    wait_for("STOPPING=1");
    assert_eq!(tokio::task::block_in_place(|| weigate.wait()).code(), Some(0));
}
