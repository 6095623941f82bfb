//! Where tokens outlive the process, as checked values.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use zeroize::Zeroizing;

use crate::types::Fingerprint;

/// Where tokens outlive the process.
#[derive(Debug, Clone)]
pub enum Store {
    /// Nowhere: a restart costs a token call.
    Memory,
    /// A directory of this process alone.
    File {
        /// Made at start, mode 0700, if it is missing.
        dir: PathBuf,
        /// Seals what stands there.
        seal_key: Option<SealKey>,
    },
    /// A Redis that several weigates may share.
    Redis {
        /// Which, and how.
        redis: Redis,
        /// Seals what stands there.
        seal_key: Option<SealKey>,
    },
}

/// A Redis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redis {
    /// Where it is, and who we are there.
    pub url: RedisUrl,
    /// What our keys and our channel start with: 1 to 64 letters, digits, `-`, `_`, `.` and `:`.
    pub prefix: String,
    /// One operation gets this long.
    pub op: Duration,
    /// PEM, at least one certificate; trusted instead of the public roots.
    pub ca_pem: Option<Vec<u8>>,
}

/// A Redis URL, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisUrl {
    /// Where.
    pub place: RedisPlace,
    /// Whether every connection speaks TLS; false for a unix socket.
    pub tls: bool,
    /// Who we are at the Redis itself.
    pub login: RedisLogin,
    /// Who we are at the Sentinels, which have users and passwords of their own.
    pub sentinel_login: RedisLogin,
    /// The number of the database.
    pub db: u32,
}

/// Where a Redis is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedisPlace {
    /// One server: a name or an address, and a port.
    One(String, u16),
    /// One server, at a socket of this machine.
    Unix(PathBuf),
    /// Whatever server the Sentinels call the master of this name.
    Sentinel {
        /// At least one.
        sentinels: Vec<(String, u16)>,
        /// The name of the master.
        master: String,
    },
    /// A cluster, known by some of its nodes: at least one.
    Cluster(Vec<(String, u16)>),
}

/// A user and a password, each only where there is one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RedisLogin {
    /// The ACL user.
    pub user: Option<String>,
    /// The password.
    pub password: Option<Password>,
}

/// A password.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(Zeroizing<String>);

/// The key that seals what a store holds: 32 bytes.
#[derive(Clone)]
pub struct SealKey(Zeroizing<[u8; 32]>);

// === impl Password ===

impl Password {
    pub(super) fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The text. Only what logs in may call this.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Password({})", Fingerprint::of(&self.0))
    }
}

// === impl SealKey ===

impl SealKey {
    /// Takes a key.
    pub fn new(bytes: Zeroizing<[u8; 32]>) -> Self {
        Self(bytes)
    }

    /// The bytes. Only what seals may call this.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A fingerprint tells a changed key from the same one; 24 bits of 256 give nothing away.
        let digits = self.0.iter().flat_map(|byte| [byte >> 4, byte & 0xf]);
        let digits: String = digits.filter_map(|digit| char::from_digit(digit.into(), 16)).collect();
        write!(f, "SealKey({})", Fingerprint::of(&Zeroizing::new(digits)))
    }
}

impl RedisUrl {
    /// The URL without user, password and path, for logs and findings.
    pub fn shown(&self) -> String {
        let one = |(host, port): &(String, u16)| {
            if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
        };
        let all = |hosts: &[(String, u16)]| hosts.iter().map(one).collect::<Vec<_>>().join(",");
        let scheme = if self.tls { "rediss" } else { "redis" };
        match &self.place {
            RedisPlace::One(host, port) => format!("{scheme}://{}", all(&[(host.clone(), *port)])),
            RedisPlace::Unix(path) => format!("unix://{}", path.display()),
            RedisPlace::Sentinel { sentinels, master } => {
                format!("{scheme}+sentinel://{}/{master}", all(sentinels))
            }
            RedisPlace::Cluster(nodes) => format!("{scheme}+cluster://{}", all(nodes)),
        }
    }
}
