//! The three that are measured: weigate's release binary, nginx and HAProxy, each as a process of its own in front of
//! origins of the suite's.
//!
//! Whatever is started here ends when it is dropped, by its process id; and with the suite, should that be killed.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, sleep};
use weigate::clients;

use crate::probes::{CLIENT_KEY, PATIENCE};
use crate::talk::{Conn, get};

/// Which of the three.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Weigate,
    Nginx,
    Haproxy,
}

/// What a front is to be. Everything is at its default but what stands here.
#[derive(Debug, Clone, Default)]
pub(crate) struct Plan {
    /// Upstream hosts, in the order in which they are to be used.
    pub(crate) origins: Vec<SocketAddr>,
    /// Upstream TLS: the authority that is trusted, for a certificate of the host's name or address.
    pub(crate) upstream_ca: Option<PathBuf>,
    /// Certificate and key for clients.
    pub(crate) tls: Option<(PathBuf, PathBuf)>,
    /// Clients speak HTTP/2 with prior knowledge (weigate needs not be told).
    pub(crate) http2: bool,
    /// Lines for weigate's `[server.limits]`.
    pub(crate) limits: &'static str,
    /// Lines for weigate's `[store]`; none is memory.
    pub(crate) store: String,
    /// Lines for weigate's client.
    pub(crate) client: &'static str,
    /// What the shell does before it becomes the front: a limit, a cgroup.
    pub(crate) before: String,
}

/// A running one.
#[derive(Debug)]
pub(crate) struct Front {
    pub(crate) kind: Kind,
    pub(crate) address: SocketAddr,
    /// weigate's own listener for operators.
    pub(crate) admin: Option<SocketAddr>,
    child: Child,
    dir: tempfile::TempDir,
}

// === impl Kind ===

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::Weigate, Self::Nginx, Self::Haproxy];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Weigate => "weigate",
            Self::Nginx => "nginx",
            Self::Haproxy => "HAProxy",
        }
    }
}

// === impl Plan ===

impl Plan {
    pub(crate) fn to(origins: &[SocketAddr]) -> Self {
        Self { origins: origins.to_vec(), ..Self::default() }
    }

    /// Starts it and waits until it serves.
    pub(crate) async fn start(&self, kind: Kind) -> Front {
        let dir = tempfile::tempdir().unwrap();
        // nginx's workers are not root.
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let (listen, admin) = (free_address(), free_address());
        let command = match kind {
            Kind::Weigate => self.weigate(dir.path(), listen, admin),
            Kind::Nginx => self.nginx(dir.path(), listen),
            Kind::Haproxy => self.haproxy(dir.path(), listen),
        };
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        // PDEATHSIG: nothing may outlive a suite that is killed.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "TERM", "sh", "-c"])
            .arg(format!("{}\nexec \"$@\"", self.before))
            .arg("sh")
            .args(command)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let admin = (kind == Kind::Weigate).then_some(admin);
        let mut front = Front { kind, address: listen, admin, child, dir };
        front.wait_ready().await;
        front
    }

    fn weigate(&self, dir: &Path, listen: SocketAddr, admin: SocketAddr) -> Vec<String> {
        let scheme = if self.upstream_ca.is_some() { "https" } else { "http" };
        let hosts: Vec<_> = self.origins.iter().map(|origin| format!("\"{scheme}://{origin}\"")).collect();
        let mut text = format!(
            "[server]\nlisten = \"{listen}\"\nworkers = 2\n{}\n[server.limits]\n{}\n\
             [admin]\nlisten = \"{admin}\"\n[upstream]\nhosts = [{}]\n{}\n[store]\n{}\n\
             [[accounts]]\nname = \"shop\"\napp_id = \"wx0123456789abcdef\"\napp_secret_file = \"secret\"\n",
            self.tls.as_ref().map_or_else(String::new, |(cert, key)| format!(
                "tls = {{ cert_file = \"{}\", key_file = \"{}\" }}",
                cert.display(),
                key.display()
            )),
            self.limits,
            hosts.join(", "),
            self.upstream_ca
                .as_ref()
                .map_or_else(String::new, |ca| format!("ca_file = \"{}\"", ca.display())),
            if self.store.is_empty() { "kind = \"memory\"" } else { &self.store },
        );
        write!(
            text,
            "[[clients]]\nname = \"orders\"\nkey_sha256 = \"{}\"\naccounts = [\"shop\"]\n{}\n",
            clients::digest_text(CLIENT_KEY),
            self.client
        )
        .unwrap();
        std::fs::write(dir.join("proxy.toml"), text).unwrap();
        write_private(&dir.join("secret"), "app-secret-of-a-test");
        vec![binary(), "serve".into(), "--config".into(), path_in(dir, "proxy.toml")]
    }

    fn nginx(&self, dir: &Path, listen: SocketAddr) -> Vec<String> {
        let mut servers = String::new();
        for (place, origin) in self.origins.iter().enumerate() {
            let role = if place == 0 { "" } else { " backup" };
            writeln!(servers, "        server {origin}{role};").unwrap();
        }
        let (mut listen, mut tls) = (listen.to_string(), String::new());
        if self.http2 {
            listen.push_str(" http2");
        }
        if let Some((cert, key)) = &self.tls {
            listen.push_str(" ssl");
            tls = format!("ssl_certificate {}; ssl_certificate_key {};", cert.display(), key.display());
        }
        // The suite's files are root's, and so must be the workers that read them.
        let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
        let text = include_str!("conf/nginx.conf")
            .replace("@USER@", user)
            .replace("@DIR@", &dir.display().to_string())
            .replace("@SERVERS@", servers.trim_end())
            .replace("@LISTEN@", &listen)
            .replace("@TLS@", &tls)
            .replace("@SCHEME@", if self.upstream_ca.is_some() { "https" } else { "http" })
            .replace("@CA@", &ca_or_any(self.upstream_ca.as_deref(), dir));
        std::fs::write(dir.join("nginx.conf"), text).unwrap();
        let log = path_in(dir, "error.log");
        let dir_text = dir.display().to_string();
        ["nginx", "-e", &log, "-p", &dir_text, "-c", &path_in(dir, "nginx.conf")].map(str::to_owned).into()
    }

    fn haproxy(&self, dir: &Path, listen: SocketAddr) -> Vec<String> {
        let mut servers = String::new();
        for (place, origin) in self.origins.iter().enumerate() {
            let role = if place == 0 { "" } else { " backup" };
            // Checked every second where there is another to go to; one alone needs no check.
            let check = if self.origins.len() > 1 { " check inter 1s" } else { "" };
            let tls = self.upstream_ca.as_ref().map_or_else(String::new, |ca| {
                format!(" ssl ca-file {} sni str(upstream.test) verifyhost upstream.test", ca.display())
            });
            writeln!(servers, "    server wx{place} {origin}{check}{role}{tls}").unwrap();
        }
        let mut listen = listen.to_string();
        if let Some((cert, key)) = &self.tls {
            let both = [std::fs::read(cert).unwrap(), std::fs::read(key).unwrap()].concat();
            std::fs::write(dir.join("both.pem"), both).unwrap();
            write!(listen, " ssl crt {}", path_in(dir, "both.pem")).unwrap();
        }
        if self.http2 {
            listen.push_str(" proto h2");
        }
        let text = include_str!("conf/haproxy.cfg")
            .replace("@LISTEN@", &listen)
            .replace("@SERVERS@", servers.trim_end());
        std::fs::write(dir.join("haproxy.cfg"), text).unwrap();
        ["haproxy", "-db", "-f", &path_in(dir, "haproxy.cfg")].map(str::to_owned).into()
    }
}

// === impl Front ===

impl Front {
    async fn wait_ready(&mut self) {
        let started = Instant::now();
        while !self.is_ready().await {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("{} ended ({status}):\n{}", self.kind.name(), self.log());
            }
            assert!(started.elapsed() < PATIENCE, "{} is not ready:\n{}", self.kind.name(), self.log());
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn is_ready(&self) -> bool {
        let Some(admin) = self.admin else { return Conn::open(self.address).await.is_ok() };
        let Ok(mut conn) = Conn::open(admin).await else { return false };
        conn.ask(get("/readyz").as_bytes()).await.is_ok_and(|status| status == 200)
    }

    /// What weigate's `/metrics` says.
    pub(crate) async fn metrics(&self) -> String {
        let mut conn = Conn::open(self.admin.unwrap()).await.unwrap();
        conn.text(get("/metrics").as_bytes()).await.unwrap()
    }

    pub(crate) fn log(&self) -> String {
        let said = std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        said + &std::fs::read_to_string(self.dir.path().join("error.log")).unwrap_or_default()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    pub(crate) fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits until it has ended by itself.
    pub(crate) async fn ended(&mut self, within: Duration) -> Option<ExitStatus> {
        let started = Instant::now();
        while started.elapsed() < within {
            if let Some(status) = self.child.try_wait().unwrap() {
                return Some(status);
            }
            sleep(Duration::from_millis(10)).await;
        }
        None
    }

    /// It and its children.
    pub(crate) fn pids(&self) -> Vec<u32> {
        let pid = self.child.id();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        let children = children.unwrap_or_default();
        std::iter::once(pid).chain(children.split_whitespace().map(|pid| pid.parse().unwrap())).collect()
    }

    /// Resident memory of all its processes now, and the most since [`Front::forget_peak`], in bytes.
    pub(crate) fn memory(&self) -> (u64, u64) {
        let of = |name: &str| {
            self.pids()
                .iter()
                .filter_map(|pid| std::fs::read_to_string(format!("/proc/{pid}/status")).ok())
                .filter_map(|text| {
                    let value =
                        text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next());
                    value.map(|kib| kib.parse::<u64>().unwrap() * 1024)
                })
                .sum()
        };
        (of("VmRSS:"), of("VmHWM:"))
    }

    /// The most memory counts from here.
    pub(crate) fn forget_peak(&self) {
        for pid in self.pids() {
            // 5: "reset the peak resident set size" (proc_pid_clear_refs(5)).
            std::fs::write(format!("/proc/{pid}/clear_refs"), "5").unwrap();
        }
    }
}

impl Drop for Front {
    /// nginx's workers end with their master when it is asked; whatever does not, is killed.
    fn drop(&mut self) {
        let children = self.pids().split_off(1);
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            if self.kind == Kind::Nginx {
                let _gone = kill_process(Pid::from_child(&self.child), Signal::TERM);
                wait_a_little(&mut self.child);
            }
            drop(self.child.kill());
        }
        drop(self.child.wait());
        for child in children {
            let is_ours = std::fs::read_to_string(format!("/proc/{child}/comm"))
                .is_ok_and(|name| name.trim() == "nginx");
            if let (true, Some(pid)) = (is_ours, i32::try_from(child).ok().and_then(Pid::from_raw)) {
                let _gone = kill_process(pid, Signal::KILL);
            }
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a destructor cannot await")]
fn wait_a_little(child: &mut Child) {
    for _turn in 0..200 {
        if !child.try_wait().is_ok_and(|ended| ended.is_none()) {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The binary under test.
pub(crate) fn binary() -> String {
    let path = std::env::var_os("WEIGATE_BIN").expect("WEIGATE_BIN names the binary to measure");
    path.into_string().unwrap()
}

/// A port that was free a moment ago, below those that the kernel gives to whoever connects. Never the same twice: dozens
/// of fronts start at one time.
pub(crate) fn free_address() -> SocketAddr {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    for _try in 0..1000 {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, fastrand::u16(10_000..32_000)));
        if GIVEN.lock().unwrap().insert(address.port()) && TcpListener::bind(address).is_ok() {
            return address;
        }
    }
    panic!("no port is free");
}

fn path_in(dir: &Path, name: &str) -> String {
    dir.join(name).display().to_string()
}

/// nginx insists on a file, whether it is used or not.
fn ca_or_any(ca: Option<&Path>, dir: &Path) -> String {
    if let Some(ca) = ca {
        return ca.display().to_string();
    }
    let made = rcgen::generate_simple_self_signed(vec!["nobody.test".to_owned()]).unwrap();
    std::fs::write(dir.join("any.pem"), made.cert.pem()).unwrap();
    path_in(dir, "any.pem")
}

/// A file that only its owner can read.
pub(crate) fn write_private(path: &Path, text: &str) {
    let mut open = std::fs::OpenOptions::new();
    let mut file = open.create(true).write(true).truncate(true).mode(0o600).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}
