//! Connections to the Redis that a URL names: one for commands, and, for a store, one for the channel.
//!
//! Whatever fails in here is a fault of the whole attempt: the next one starts over, with the next node of a cluster
//! first, so that one that hangs holds nothing up but one attempt. With `rediss` nothing is sent in plain text.

use std::time::Duration;

use ::redis::aio::{MultiplexedConnection, PubSub};
use ::redis::cluster::ClusterClientBuilder;
use ::redis::cluster_async::ClusterConnection;
use ::redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, FromRedisValue,
    IntoConnectionInfo, RedisConnectionInfo, RedisError, RedisResult, Role, ServerErrorKind, TlsCertificates,
    TlsMode,
};
use tokio::time::timeout;

use super::fault::RedisFault;
use super::sentinel::{self, Master};
use crate::config::{Redis, RedisLogin, RedisPlace};

/// For commands; cheap to clone.
#[derive(Clone)]
pub(in crate::token) enum Connection {
    One(MultiplexedConnection),
    Cluster(Box<ClusterConnection>),
}

/// Name, TCP, TLS, login and a first answer, over all the servers that one attempt asks.
pub(super) const CONNECT_MAX: Duration = Duration::from_secs(2);

/// Connects; with the master, where Sentinels have named it. `attempt` counts up, and says with which of a cluster's
/// nodes to begin.
pub(super) async fn connect(
    settings: &Redis,
    channel: &str,
    attempt: usize,
) -> Result<(Connection, PubSub, Option<Master>), RedisFault> {
    in_time(connections(settings, channel, attempt)).await
}

/// Connects for commands alone.
pub(in crate::token) async fn connect_for_commands(
    settings: &Redis,
) -> Result<(Connection, Option<Master>), RedisFault> {
    in_time(async {
        if let RedisPlace::Cluster(nodes) = &settings.url.place {
            return Ok((Connection::Cluster(Box::new(cluster(settings, nodes).await?)), None));
        }
        let (client, master) = client_at(settings).await?;
        Ok((commands_of(&client, master.as_ref()).await?, master))
    })
    .await
}

async fn in_time<T>(connecting: impl Future<Output = RedisResult<T>>) -> Result<T, RedisFault> {
    match timeout(CONNECT_MAX, connecting).await {
        Ok(done) => done.map_err(|error| RedisFault::from(&error)),
        Err(_) => Err(RedisFault::TimedOut),
    }
}

async fn connections(
    settings: &Redis,
    channel: &str,
    attempt: usize,
) -> RedisResult<(Connection, PubSub, Option<Master>)> {
    if let RedisPlace::Cluster(nodes) = &settings.url.place {
        let connection = cluster(settings, nodes).await?;
        // What is published on one node of a cluster is heard on all.
        let client = first_of(settings, &rotated(nodes, attempt))?;
        return Ok((Connection::Cluster(Box::new(connection)), news_of(&client, channel).await?, None));
    }
    let (client, master) = client_at(settings).await?;
    let connection = commands_of(&client, master.as_ref()).await?;
    Ok((connection, news_of(&client, channel).await?, master))
}

/// The one server that commands go to; of a cluster, one of those named.
async fn client_at(settings: &Redis) -> RedisResult<(Client, Option<Master>)> {
    let (login, db) = (&settings.url.login, settings.url.db);
    Ok(match &settings.url.place {
        RedisPlace::One(host, port) => (client_of(settings, host, *port, login, db)?, None),
        RedisPlace::Unix(path) => {
            (Client::open(info_of(ConnectionAddr::Unix(path.clone()), login, db)?)?, None)
        }
        RedisPlace::Sentinel { sentinels, master } => {
            let master = sentinel::master(settings, sentinels, master).await?;
            (client_of(settings, &master.host, master.port, login, db)?, Some(master))
        }
        RedisPlace::Cluster(nodes) => (first_of(settings, nodes)?, None),
    })
}

/// `master`: what Sentinels have called one, and may be none any more.
async fn commands_of(client: &Client, master: Option<&Master>) -> RedisResult<Connection> {
    // Operations have limits of their own.
    let config =
        AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT_MAX)).set_response_timeout(None);
    let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
    // A user who may not ask finds out by writing.
    if master.is_some()
        && let Ok(Role::Replica { .. }) = ::redis::cmd("ROLE").query_async(&mut connection).await
    {
        let kind = ErrorKind::Server(ServerErrorKind::ReadOnly);
        return Err(RedisError::from((kind, "what the Sentinels call the master is a replica")));
    }
    Ok(Connection::One(connection))
}

async fn news_of(client: &Client, channel: &str) -> RedisResult<PubSub> {
    let mut news = client.get_async_pubsub().await?;
    news.subscribe(channel).await?;
    Ok(news)
}

async fn cluster(settings: &Redis, nodes: &[(String, u16)]) -> RedisResult<ClusterConnection> {
    let infos = nodes
        .iter()
        .map(|(host, port)| info_of(address(settings, host, *port), &settings.url.login, settings.url.db));
    let infos: Vec<ConnectionInfo> = infos.collect::<RedisResult<_>>()?;
    let mut builder = ClusterClientBuilder::new(infos)
        .connection_timeout(CONNECT_MAX)
        .response_timeout(settings.op)
        .retries(1);
    if settings.url.tls {
        builder = builder.tls(TlsMode::Secure).certs(roots(settings));
    }
    builder.build()?.get_async_connection().await
}

fn address(settings: &Redis, host: &str, port: u16) -> ConnectionAddr {
    if settings.url.tls {
        ConnectionAddr::TcpTls { host: host.to_owned(), port, insecure: false, tls_params: None }
    } else {
        ConnectionAddr::Tcp(host.to_owned(), port)
    }
}

fn info_of(address: ConnectionAddr, login: &RedisLogin, db: u32) -> RedisResult<ConnectionInfo> {
    let mut info = RedisConnectionInfo::default().set_db(db.into());
    if let Some(user) = &login.user {
        info = info.set_username(user);
    }
    if let Some(password) = &login.password {
        info = info.set_password(password.expose());
    }
    Ok(address.into_connection_info()?.set_redis_settings(info))
}

pub(super) fn client_of(
    settings: &Redis,
    host: &str,
    port: u16,
    login: &RedisLogin,
    db: u32,
) -> RedisResult<Client> {
    let info = info_of(address(settings, host, port), login, db)?;
    if settings.url.tls { Client::build_with_tls(info, roots(settings)) } else { Client::open(info) }
}

fn first_of(settings: &Redis, nodes: &[(String, u16)]) -> RedisResult<Client> {
    let nowhere = || RedisError::from((ErrorKind::InvalidClientConfig, "a cluster has at least one node"));
    let (host, port) = nodes.first().ok_or_else(nowhere)?;
    client_of(settings, host, *port, &settings.url.login, settings.url.db)
}

/// The authorities to trust; the public ones where none are given.
fn roots(settings: &Redis) -> TlsCertificates {
    TlsCertificates { client_tls: None, root_cert: settings.ca_pem.clone() }
}

/// The same hosts, another one first.
fn rotated(hosts: &[(String, u16)], by: usize) -> Vec<(String, u16)> {
    let mut hosts = hosts.to_vec();
    let middle = by.checked_rem(hosts.len()).unwrap_or_default();
    hosts.rotate_left(middle);
    hosts
}

// === impl Connection ===

impl Connection {
    /// Runs a command, for as long as it takes.
    pub(in crate::token) async fn run<V: FromRedisValue>(&mut self, command: &Cmd) -> RedisResult<V> {
        match self {
            Self::One(connection) => command.query_async(connection).await,
            Self::Cluster(connection) => command.query_async(&mut **connection).await,
        }
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connection")
    }
}
