//! The proxies that are measured: how each is configured, started and stopped.

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};
use weigate_bench::{APP_ID, TARGET, client_key, token};

use crate::origin::Origin;
use crate::{Anyhow, Bench, http, proc};

/// Who is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Weigate,
    Nginx,
    NginxLua,
    Haproxy,
    Pingora,
    Envoy,
    /// The least that a proxy can cost: bytes go from socket to socket.
    Relay,
    /// No proxy at all.
    Direct,
}

/// What a subject speaks to the origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Wire {
    Plain,
    TlsH1,
    TlsH2,
}

/// Where processes may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cpus {
    One(u8),
    All,
}

/// How the machine is shared out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mode {
    /// One worker on CPU 0; origin and load on CPU 1.
    Core,
    /// Two workers, nothing pinned.
    Shared,
}

/// A proxy that runs; ends with this value.
pub struct Running {
    pub port: u16,
    pub pids: Vec<u32>,
    child: Option<Child>,
}

/// The setting with which weigate speaks HTTP/2 to its upstream. A binary from before it (`--weigate`) has no such row.
const WEIGATE_H2: &str = "http2 = true";

impl Kind {
    pub const ALL: [Self; 8] = [
        Self::Weigate,
        Self::Nginx,
        Self::NginxLua,
        Self::Haproxy,
        Self::Pingora,
        Self::Envoy,
        Self::Relay,
        Self::Direct,
    ];

    pub fn word(self) -> &'static str {
        match self {
            Self::Weigate => "weigate",
            Self::Nginx => "nginx",
            Self::NginxLua => "nginx-lua",
            Self::Haproxy => "haproxy",
            Self::Pingora => "pingora",
            Self::Envoy => "envoy",
            Self::Relay => "relay",
            Self::Direct => "direct",
        }
    }

    pub fn title(self) -> &'static str {
        match self {
            Self::Weigate => "weigate",
            Self::Nginx => "nginx",
            Self::NginxLua => "nginx + Lua, same job",
            Self::Haproxy => "HAProxy",
            Self::Pingora => "Pingora",
            Self::Envoy => "Envoy",
            Self::Relay => "relay of bytes",
            Self::Direct => "no proxy",
        }
    }

    /// Whether it puts a token in; where not, the load brings one.
    pub fn injects(self) -> bool {
        !matches!(self, Self::Relay | Self::Direct)
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.word() == text)
    }

    /// Whether it can speak `wire` here.
    pub fn speaks(self, wire: Wire, bench: &Bench) -> bool {
        match (self, wire) {
            (Self::Relay, wire) => wire == Wire::Plain,
            (_, Wire::Plain | Wire::TlsH1) => true,
            (Self::Haproxy | Self::Pingora | Self::Envoy, Wire::TlsH2) => true,
            (Self::Weigate, Wire::TlsH2) => weigate_speaks_h2(bench),
            // HTTP/2 to the upstream came with 1.29.4.
            (Self::Nginx, Wire::TlsH2) => nginx_version().is_some_and(|version| version >= (1, 29, 4)),
            (Self::NginxLua | Self::Direct, Wire::TlsH2) => false,
        }
    }

    /// Starts it in front of `origin`, and returns when a request through it has brought the right body and the origin
    /// has seen the right token.
    pub fn start(self, wire: Wire, mode: Mode, origin: &Origin, bench: &Bench) -> Anyhow<Running> {
        if self == Self::Direct {
            return Ok(Running { port: origin.port(wire), pids: Vec::new(), child: None });
        }
        let dir = bench.run.join(format!("{}-{wire:?}-{mode:?}", self.word()));
        // What an earlier run left, a store with its token above all, would not be a fresh subject.
        if dir.exists() {
            fs::remove_dir_all(&dir)?;
        }
        fs::create_dir_all(&dir)?;
        // nginx's workers give up root, and must find their directory all the same.
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755))?;
        let port = free_port()?;
        let set = Settings { dir: &dir, port, upstream: origin.port(wire), wire, mode, bench };
        let command = self.command(&set)?;
        let running = Running::spawn(command, port, &dir)?;
        http::wait_until_good(port, &self.target(), Duration::from_secs(10))
            .map_err(|error| format!("{} {wire:?}: {error}", self.word()))?;
        if !self.injects() {
            return Ok(running.with_children());
        }
        let echoed = http::get(port, "/cgi-bin/bench/echo?a=b")?;
        if !echoed.contains(&token(APP_ID, 0)) {
            return Err(format!("{} {wire:?} does not put the token in", self.word()).into());
        }
        Ok(running.with_children())
    }

    /// What the load asks it for.
    pub fn target(self) -> String {
        let token =
            if self.injects() { String::new() } else { format!("&access_token={}", token(APP_ID, 0)) };
        format!("{TARGET}{token}")
    }

    fn command(self, set: &Settings<'_>) -> Anyhow<Command> {
        let cpus = set.mode.subject_cpus();
        let workers = set.mode.workers().to_string();
        match self {
            Self::Weigate => weigate_command(&set.write("weigate.toml", "proxy.toml")?, cpus, set.bench),
            Self::Nginx | Self::NginxLua => {
                let template = if self == Self::Nginx { "nginx.conf" } else { "nginx-lua.conf" };
                let mut command = cpus.command(Path::new("nginx"));
                command
                    .arg("-c")
                    .arg(set.write(template, "nginx.conf")?)
                    .arg("-e")
                    .arg(set.dir.join("start.log"));
                Ok(command)
            }
            Self::Haproxy => {
                let mut command = cpus.command(Path::new("haproxy"));
                command.arg("-db").arg("-f").arg(set.write("haproxy.cfg", "haproxy.cfg")?);
                Ok(command)
            }
            Self::Pingora => {
                let protocol = match set.wire {
                    Wire::Plain => "plain",
                    Wire::TlsH1 => "h1",
                    Wire::TlsH2 => "h2",
                };
                let mut command = cpus.command(&set.bench.pingora);
                command
                    .arg(format!("127.0.0.1:{}", set.port))
                    .arg(format!("127.0.0.1:{}", set.upstream))
                    .args([workers.as_str(), protocol])
                    .arg(set.bench.run.join("ca.pem"))
                    .arg(token(APP_ID, 0));
                Ok(command)
            }
            Self::Envoy => {
                let mut command = cpus.command(&set.bench.envoy);
                command.arg("-c").arg(set.write("envoy.yaml", "envoy.yaml")?);
                command.args(["--concurrency", &workers, "--log-level", "error", "--disable-hot-restart"]);
                Ok(command)
            }
            Self::Relay => {
                let mut command = cpus.command(&set.bench.relay);
                command
                    .arg(format!("127.0.0.1:{}", set.port))
                    .arg(format!("127.0.0.1:{}", set.upstream))
                    .arg(&workers);
                Ok(command)
            }
            Self::Direct => Err("there is no proxy to start".into()),
        }
    }
}

/// weigate with a configuration, as every experiment starts it.
pub fn weigate_command(config: &Path, cpus: Cpus, bench: &Bench) -> Anyhow<Command> {
    let mut command = cpus.command(&bench.weigate);
    command
        .arg("serve")
        .arg("--config")
        .arg(config)
        .env("BENCH_APP_SECRET", "0123456789abcdef0123456789abcdef");
    Ok(command)
}

/// Fills in weigate's configuration in `dir`.
pub fn weigate_config(
    dir: &Path,
    port: u16,
    wire: Wire,
    mode: Mode,
    origin: &Origin,
    bench: &Bench,
) -> Anyhow<PathBuf> {
    let set = Settings { dir, port, upstream: origin.port(wire), wire, mode, bench };
    set.write("weigate.toml", "proxy.toml")
}

struct Settings<'a> {
    dir: &'a Path,
    port: u16,
    upstream: u16,
    wire: Wire,
    mode: Mode,
    bench: &'a Bench,
}

impl Settings<'_> {
    /// Writes a template with its places filled in.
    fn write(&self, template: &str, name: &str) -> Anyhow<PathBuf> {
        let read = |name: &str| fs::read_to_string(self.bench.conf.join(name));
        let is_tls = self.wire != Wire::Plain;
        let is_h2 = self.wire == Wire::TlsH2;
        let ca = self.bench.run.join("ca.pem").display().to_string();
        let alpn = if is_h2 { "h2" } else { "http/1.1" };
        let server_tls = format!(
            "ssl verify required ca-file {ca} sni str(api.weixin.qq.com) verifyhost api.weixin.qq.com alpn {alpn}"
        );
        let mut extra = String::new();
        if is_tls {
            extra.push_str(&format!("ca_file = \"{ca}\"\n"));
        }
        if is_h2 {
            extra.push_str(WEIGATE_H2);
        }
        let places = [
            ("@TRANSPORT_SOCKET@", if is_tls { read("envoy-tls.yaml")? } else { String::new() }),
            ("@SERVER_TLS@", if is_tls { server_tls } else { String::new() }),
            ("@UPSTREAM_EXTRA@", extra),
            (
                "@PROTOCOL_OPTIONS@",
                if is_h2 { "http2_protocol_options" } else { "http_protocol_options" }.to_owned(),
            ),
            ("@SCHEME@", if is_tls { "https" } else { "http" }.to_owned()),
            ("@HTTP@", if is_h2 { "2" } else { "1.1" }.to_owned()),
            ("@LISTEN@", self.port.to_string()),
            ("@ADMIN@", free_port()?.to_string()),
            ("@UPSTREAM@", self.upstream.to_string()),
            ("@WORKERS@", self.mode.workers().to_string()),
            ("@DIR@", self.dir.display().to_string()),
            ("@TOKEN@", token(APP_ID, 0)),
            ("@APP_ID@", APP_ID.to_owned()),
            ("@KEY_SHA256@", hex(&Sha256::digest(client_key(0)))),
            ("@CA@", ca),
        ];
        let mut text = read(template)?;
        for (place, value) in places {
            text = text.replace(place, &value);
        }
        let path = self.dir.join(name);
        fs::write(&path, text)?;
        Ok(path)
    }
}

impl Running {
    pub fn spawn(mut command: Command, port: u16, dir: &Path) -> Anyhow<Self> {
        let log = File::create(dir.join("output.log"))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .map_err(|error| format!("{:?}: {error}", command.get_program()))?;
        Ok(Self { port, pids: vec![child.id()], child: Some(child) })
    }

    /// Finds the workers.
    pub fn with_children(mut self) -> Self {
        self.pids = self.child.as_ref().map_or_else(Vec::new, |child| proc::tree(child.id()));
        self
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let Some(child) = &mut self.child else { return };
        let pids = proc::tree(child.id());
        signal("-TERM", &[child.id()]);
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(2) {
            if child.try_wait().is_ok_and(|ended| ended.is_some()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        signal("-KILL", &pids);
        let _ended = child.wait();
    }
}

fn signal(name: &str, pids: &[u32]) {
    // A process that has ended already is what we want.
    let _sent =
        Command::new("kill").arg(name).args(pids.iter().map(u32::to_string)).stderr(Stdio::null()).status();
}

impl Mode {
    pub fn workers(self) -> usize {
        match self {
            Self::Core => 1,
            Self::Shared => 2,
        }
    }

    pub fn subject_cpus(self) -> Cpus {
        match self {
            Self::Core => Cpus::One(0),
            Self::Shared => Cpus::All,
        }
    }

    pub fn load_cpus(self) -> Cpus {
        match self {
            Self::Core => Cpus::One(1),
            Self::Shared => Cpus::All,
        }
    }
}

impl Wire {
    pub fn title(self) -> &'static str {
        match self {
            Self::Plain => "HTTP/1.1",
            Self::TlsH1 => "HTTP/1.1, TLS",
            Self::TlsH2 => "HTTP/2, TLS",
        }
    }
}

impl Cpus {
    /// A command that runs here, and ends with the harness however that ends.
    pub fn command(self, program: &Path) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", "--"]);
        if let Self::One(cpu) = self {
            command.args(["taskset", "-c", &cpu.to_string()]);
        }
        command.arg(program);
        command
    }
}

/// A port below the range from which connections get theirs.
pub fn free_port() -> Anyhow<u16> {
    for _ in 0..100 {
        let port = fastrand::u16(20_000..32_000);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    Err("no free port".into())
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn weigate_speaks_h2(bench: &Bench) -> bool {
    let dir = bench.run.join("check");
    let text = format!(
        "[upstream]\n{WEIGATE_H2}\n[store]\nkind = \"memory\"\n[[accounts]]\nname = \"a\"\napp_id = \"{APP_ID}\"\napp_secret_env = \"BENCH_APP_SECRET\"\n"
    );
    let config = dir.join("h2.toml");
    if fs::create_dir_all(&dir).and_then(|()| fs::write(&config, text)).is_err() {
        return false;
    }
    let mut command = Command::new(&bench.weigate);
    command
        .args(["check", "--config"])
        .arg(config)
        .env("BENCH_APP_SECRET", "0123456789abcdef0123456789abcdef");
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

fn nginx_version() -> Option<(u32, u32, u32)> {
    let output = Command::new("nginx").arg("-v").output().ok()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let mut numbers =
        text.split_once('/')?.1.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok());
    Some((numbers.next()?, numbers.next()?, numbers.next()?))
}
