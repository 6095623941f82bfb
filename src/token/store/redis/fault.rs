//! What goes wrong with a Redis: a closed set of words, each with its cure. Nothing a server says is repeated.

use ::redis::{ErrorKind, RedisError, ServerErrorKind};

/// Why Redis gave no answer that can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RedisFault {
    /// There is no connection at the moment, and one is being made.
    Away,
    /// No answer in time.
    TimedOut,
    /// No connection, or it was cut; a certificate that is not trusted is one of the reasons.
    Unreachable,
    /// User or password are not right.
    Login,
    /// The user may not do what we must.
    Forbidden,
    /// A replica, or a server that cannot write.
    ReadOnly,
    /// The server starts, or its cluster or master is down.
    Unready,
    /// The Sentinels do not know the master.
    NoMaster,
    /// The Sentinels name another master than the one we are connected to.
    Moved,
    /// Anything else it says.
    Refused,
}

// === impl RedisFault ===

impl RedisFault {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Away,
        Self::TimedOut,
        Self::Unreachable,
        Self::Login,
        Self::Forbidden,
        Self::ReadOnly,
        Self::Unready,
        Self::NoMaster,
        Self::Moved,
        Self::Refused,
    ];

    /// Its word in metrics and logs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Away => "away",
            Self::TimedOut => "timed_out",
            Self::Unreachable => "unreachable",
            Self::Login => "login",
            Self::Forbidden => "forbidden",
            Self::ReadOnly => "read_only",
            Self::Unready => "unready",
            Self::NoMaster => "no_master",
            Self::Moved => "moved",
            Self::Refused => "refused",
        }
    }

    /// What a person can do about it.
    pub fn cure(self) -> &'static str {
        match self {
            Self::Away => "there is no connection at the moment; weigate keeps trying",
            Self::TimedOut => "it is slow, hangs, or packets are dropped on the way",
            Self::Unreachable => {
                "is it running, is the address right, does a firewall stand between, and with TLS, is its \
                 certificate for this name and from an authority in store.ca_file?"
            }
            Self::Login => "user or password in the URL are not right (ACL GETUSER shows the user)",
            Self::Forbidden => {
                "the user needs ~PREFIX:* &PREFIX:* +get +set +setnx +mget +del +eval +time +pttl +pexpire \
                 +pexpireat +publish +subscribe +ping +select"
            }
            Self::ReadOnly => {
                "it is a replica, or its disk is full: point the URL at the master, or at the Sentinels"
            }
            Self::Unready => "it is starting, or its cluster or its master is down",
            Self::NoMaster => "the Sentinels do not know a master of the name in the URL, or none is up",
            Self::Moved => "none is needed: a failover; weigate connects to the new master",
            Self::Refused => "it said no: its own log, or MONITOR, shows why",
        }
    }

    /// The place in a list of counters.
    pub(super) fn index(self) -> usize {
        Self::ALL.iter().position(|fault| *fault == self).unwrap_or_default()
    }
}

impl From<&RedisError> for RedisFault {
    #[expect(clippy::wildcard_enum_match_arm, reason = "the library's list of kinds is open")]
    fn from(error: &RedisError) -> Self {
        if error.is_timeout() {
            return Self::TimedOut;
        }
        match error.code() {
            Some("WRONGPASS" | "NOAUTH") => return Self::Login,
            Some("NOPERM") => return Self::Forbidden,
            Some("MISCONF" | "NOREPLICAS") => return Self::ReadOnly,
            Some(_) | None => {}
        }
        match error.kind() {
            ErrorKind::AuthenticationFailed => Self::Login,
            ErrorKind::Io | ErrorKind::ClusterConnectionNotFound => Self::Unreachable,
            ErrorKind::MasterNameNotFoundBySentinel | ErrorKind::NoValidReplicasFoundBySentinel => {
                Self::NoMaster
            }
            ErrorKind::Server(ServerErrorKind::ReadOnly) => Self::ReadOnly,
            ErrorKind::Server(
                ServerErrorKind::BusyLoading
                | ServerErrorKind::TryAgain
                | ServerErrorKind::ClusterDown
                | ServerErrorKind::MasterDown,
            ) => Self::Unready,
            _ => Self::Refused,
        }
    }
}
