//! Checks where we listen and what clients may use.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use toml::Spanned;

use super::super::{Admin, Limits, ListenAddress, Server, default_workers, file};
use super::Checker;

impl Checker<'_> {
    pub(super) fn server(&mut self, file: &file::Server, has_clients: bool) -> Server {
        let listen = self.listen_addresses(file.listen.as_ref());
        self.judge_exposure(file, &listen, has_clients);
        let tls = file.tls.as_ref().and_then(|tls| self.tls(tls));
        let watch_files = file.watch_files.as_ref().is_none_or(|watch| *watch.get_ref());
        if !watch_files {
            self.note("server.watch_files", false);
        }
        let workers = self.count("server.workers", file.workers.as_ref(), default_workers(), 1..=1024);
        let spool_dir = self.spool_dir(file.spool_dir.as_ref());
        let limits = self.limits(&file.limits);
        let listen: Vec<ListenAddress> = listen.into_iter().map(Spanned::into_inner).collect();
        let socket_mode = self.socket_mode("server.socket_mode", file.socket_mode.as_ref(), &listen);
        Server { listen, socket_mode, tls, watch_files, workers, spool_dir, limits }
    }

    pub(super) fn admin(&mut self, file: &file::Admin, server: &[ListenAddress]) -> Option<Admin> {
        let listen = match &file.listen {
            None => Spanned::new(0..0, ListenAddress::Tcp(ADMIN_DEFAULT)),
            Some(written) => self.listen_address("admin.listen", written)?,
        };
        if file.enabled.as_ref().is_some_and(|enabled| !enabled.get_ref()) {
            self.note("admin.enabled", false);
            return None;
        }
        let allow_remote = file.allow_remote.as_ref().is_some_and(|allow| *allow.get_ref());
        let address = listen.get_ref();
        if server.iter().any(|other| other.collides_with(address)) {
            let message = "`admin.listen` is an address that [server] listens at too, give it one of its own";
            if file.listen.is_some() {
                self.faults.at(&listen, message);
            } else {
                self.faults.whole(format!("{message} (it is {ADMIN_DEFAULT} by default)"));
            }
        }
        if !address.is_local() {
            if allow_remote {
                let message = "`admin.listen` can be reached from other machines, whoever reaches it may operate weigate";
                self.faults.warn(&listen, message);
            } else {
                let message = "`admin.listen` can be reached from other machines, it takes a loopback address or \
                               unix:/path, or `admin.allow_remote = true`";
                self.faults.at(&listen, message);
            }
        }
        if *address != ListenAddress::Tcp(ADMIN_DEFAULT) {
            self.note("admin.listen", address);
        }
        let metrics_accounts_max = self.count(
            "admin.metrics_accounts_max",
            file.metrics_accounts_max.as_ref(),
            METRICS_ACCOUNTS_MAX,
            0..=100_000,
        );
        let listen = listen.into_inner();
        let socket_mode =
            self.socket_mode("admin.socket_mode", file.socket_mode.as_ref(), std::slice::from_ref(&listen));
        Some(Admin { listen, socket_mode, metrics_accounts_max })
    }

    fn listen_addresses(&mut self, written: Option<&file::Texts>) -> Vec<Spanned<ListenAddress>> {
        let Some(written) = written else {
            return vec![Spanned::new(0..0, ListenAddress::Tcp(SERVER_DEFAULT))];
        };
        if written.get_ref().is_empty() {
            self.faults.at(written, "`server.listen` is empty, it takes at least one address");
        }
        let mut addresses: Vec<Spanned<ListenAddress>> = Vec::new();
        for text in written.get_ref() {
            let Some(address) = self.listen_address("server.listen", text) else { continue };
            if addresses.iter().any(|other| other.get_ref().collides_with(address.get_ref())) {
                self.faults.at(text, "`server.listen` has this address already, leave it out");
            }
            addresses.push(address);
        }
        if addresses.iter().any(|address| *address.get_ref() != ListenAddress::Tcp(SERVER_DEFAULT)) {
            let all: Vec<String> = addresses.iter().map(|address| address.get_ref().to_string()).collect();
            self.note("server.listen", all.join(", "));
        }
        addresses
    }

    fn listen_address(&mut self, setting: &str, text: &Spanned<String>) -> Option<Spanned<ListenAddress>> {
        let address = if let Some(path) = text.get_ref().strip_prefix("unix:") {
            self.socket_path(setting, &Spanned::new(text.span(), path.to_owned()))?
        } else if let Ok(address) = text.get_ref().parse::<SocketAddr>() {
            ListenAddress::Tcp(address)
        } else {
            let right = "it takes an IP address with a port, \"127.0.0.1:8080\", or \"unix:/path\"";
            self.faults.at(text, format!("`{setting}` is not an address to listen at, {right}"));
            return None;
        };
        Some(Spanned::new(text.span(), address))
    }

    fn socket_path(&mut self, setting: &str, path: &Spanned<String>) -> Option<ListenAddress> {
        let full = self.path(setting, path)?;
        if full.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
            let message = format!(
                "`{setting}` is too long for a socket, its path may have {SOCKET_PATH_BYTES_MAX} bytes"
            );
            self.faults.at(path, message);
            return None;
        }
        Some(ListenAddress::Unix(full))
    }

    fn socket_mode(
        &mut self,
        setting: &'static str,
        written: Option<&Spanned<String>>,
        listen: &[ListenAddress],
    ) -> Option<u32> {
        let written = written?;
        let digits = written.get_ref();
        let is_octal =
            matches!(digits.len(), 3 | 4) && digits.bytes().all(|digit| matches!(digit, b'0'..=b'7'));
        let mode = u32::from_str_radix(digits, 8).ok().filter(|mode| is_octal && *mode <= 0o777);
        if mode.is_none() {
            let message = format!(
                "`{setting}` is not the mode of a file, it takes three octal digits: \"660\" lets the owner and the \
                 group connect"
            );
            self.faults.at(written, message);
        } else if listen.iter().any(|address| matches!(address, ListenAddress::Unix(_))) {
            self.note(setting, digits);
        } else {
            self.faults.warn(
                written,
                format!("`{setting}` is for unix sockets, and no \"unix:/path\" is listened at"),
            );
        }
        mode
    }

    /// Whoever is reachable from other machines must know its callers, or say that it does not.
    fn judge_exposure(&mut self, file: &file::Server, listen: &[Spanned<ListenAddress>], has_clients: bool) {
        let anonymous = file.allow_anonymous.as_ref().filter(|allow| *allow.get_ref());
        if let Some(anonymous) = anonymous {
            self.note("server.allow_anonymous", true);
            if has_clients {
                let message = "`server.allow_anonymous` contradicts [[clients]]: with clients every caller needs a \
                               key, leave one of them out";
                self.faults.at(anonymous, message);
            }
        }
        for address in listen.iter().filter(|address| !address.get_ref().is_local()) {
            if anonymous.is_none() && !has_clients {
                let message = "`server.listen` can be reached from other machines, it needs [[clients]], or a \
                               loopback address, or `server.allow_anonymous = true`";
                self.faults.at(address, message);
            } else if anonymous.is_some() {
                self.faults
                    .warn(address, "whoever reaches this address may use every account, without a key");
            } else if file.tls.is_none() {
                self.faults.warn(
                    address,
                    "client keys come to this address unencrypted, `server.tls` encrypts them",
                );
            }
        }
    }

    fn spool_dir(&mut self, written: Option<&Spanned<String>>) -> PathBuf {
        let default = || {
            let given = (self.environment)("TMPDIR").filter(|dir| !dir.is_empty());
            given.map_or_else(|| PathBuf::from("/tmp"), PathBuf::from)
        };
        let Some(written) = written else { return default() };
        let Some(dir) = self.path("server.spool_dir", written) else { return default() };
        if tempfile::tempfile_in(&dir).is_err() {
            let message =
                "`server.spool_dir` is not a directory in which we can write, make it one or name another";
            self.faults.at(written, message);
        }
        self.note("server.spool_dir", dir.display());
        dir
    }

    fn limits(&mut self, file: &file::Limits) -> Limits {
        let by_default = Limits::default();
        macro_rules! limit {
            ($check:ident, $name:ident, $default:ident, $bounds:expr) => {
                self.$check(
                    concat!("server.limits.", stringify!($name)),
                    file.$name.as_ref(),
                    by_default.$default,
                    $bounds,
                )
            };
        }
        let mut limits = Limits {
            connections_max: limit!(count, connections_max, connections_max, 1..=1_000_000),
            handshake: limit!(span, handshake_ms_max, handshake, 100..=60_000),
            header: limit!(span, header_ms_max, header, 100..=120_000),
            // Below 8 KiB hyper's read buffer cannot go.
            header_bytes_max: limit!(count, header_bytes_max, header_bytes_max, 8_192..=1_048_576),
            headers_max: limit!(count, headers_max, headers_max, 16..=1_000),
            idle: limit!(span, idle_ms_max, idle, 1_000..=3_600_000),
            requests_per_connection: limit!(
                number,
                requests_per_connection_max,
                requests_per_connection,
                1..=1_000_000_000
            ),
            held_memory_bytes_max: limit!(
                number,
                held_memory_bytes_max,
                held_memory_bytes_max,
                1_024..=67_108_864
            ),
            body_bytes_max: limit!(number, body_bytes_max, body_bytes_max, 1_024..=1_073_741_824),
            body_bytes_per_s_min: limit!(number, body_bytes_per_s_min, body_bytes_per_s_min, 0..=1_048_576),
            request: limit!(span, request_ms_max, request, 1_000..=600_000),
            stall: limit!(span, stall_ms_max, stall, 1_000..=600_000),
            drain: limit!(span, drain_ms_max, drain, 0..=600_000),
            token_waiters_max: limit!(count, token_waiters_max, token_waiters_max, 1..=1_000_000),
        };
        if limits.held_memory_bytes_max > limits.body_bytes_max {
            limits.held_memory_bytes_max = limits.body_bytes_max;
            if let Some(written) = &file.held_memory_bytes_max {
                let message =
                    "`server.limits.held_memory_bytes_max` is above `body_bytes_max`, it is at most the same";
                self.faults.at(written, message);
            }
        }
        limits
    }
}

// === impl ListenAddress ===

impl ListenAddress {
    /// Whether only this machine can reach it.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => is_loopback(address.ip()),
            Self::Unix(_) => true,
        }
    }

    /// Whether one of the two would take the other's connections.
    fn collides_with(&self, other: &Self) -> bool {
        let (Self::Tcp(one), Self::Tcp(two)) = (self, other) else { return self == other };
        let same_ip = one.ip() == two.ip()
            || one.is_ipv4() == two.is_ipv4() && (one.ip().is_unspecified() || two.ip().is_unspecified());
        one.port() == two.port() && one.port() != 0 && same_ip
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Whether an address belongs to this machine alone.
pub(super) fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

pub(in crate::config) const SERVER_DEFAULT: SocketAddr =
    SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8080);

pub(in crate::config) const METRICS_ACCOUNTS_MAX: usize = 1000;

pub(in crate::config) const ADMIN_DEFAULT: SocketAddr =
    SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9090);

/// `sun_path` has 108 bytes on Linux, the last of them 0.
/// man 7 unix.
const SOCKET_PATH_BYTES_MAX: usize = 107;
