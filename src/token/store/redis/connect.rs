//! Connections to the Redis that a URL names: one for commands, and, for a store, one for the channel.
//!
//! Whatever fails in here is a fault of the whole attempt: the next one starts over, with the next Sentinel first,
//! so that one that hangs holds nothing up but one attempt. With `rediss` nothing is sent in plain text.

use std::time::Duration;

use ::redis::aio::{MultiplexedConnection, PubSub};
use ::redis::cluster::ClusterClientBuilder;
use ::redis::cluster_async::ClusterConnection;
use ::redis::sentinel::{SentinelClientBuilder, SentinelServerType};
use ::redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, FromRedisValue,
    IntoConnectionInfo, RedisConnectionInfo, RedisError, RedisResult, TlsCertificates, TlsMode,
};
use tokio::time::timeout;

use super::fault::RedisFault;
use crate::config::{Redis, RedisLogin, RedisPlace};

/// For commands; cheap to clone.
#[derive(Clone)]
pub(in crate::token) enum Connection {
    One(MultiplexedConnection),
    Cluster(Box<ClusterConnection>),
}

/// Name, TCP, TLS, login and a first answer, over all the servers that one attempt asks.
const CONNECT_MAX: Duration = Duration::from_secs(2);

/// Connects. `attempt` counts up, and says with which of several hosts to begin.
pub(super) async fn connect(
    settings: &Redis,
    channel: &str,
    attempt: usize,
) -> Result<(Connection, PubSub), RedisFault> {
    in_time(connections(settings, channel, attempt)).await
}

/// Connects for commands alone.
pub(in crate::token) async fn connect_for_commands(
    settings: &Redis,
    attempt: usize,
) -> Result<Connection, RedisFault> {
    in_time(async {
        match &settings.url.place {
            RedisPlace::Cluster(nodes) => Ok(Connection::Cluster(Box::new(cluster(settings, nodes).await?))),
            RedisPlace::One(..) | RedisPlace::Unix(_) | RedisPlace::Sentinel { .. } => {
                commands_of(&client_at(settings, attempt).await?).await
            }
        }
    })
    .await
}

async fn in_time<T>(connecting: impl Future<Output = RedisResult<T>>) -> Result<T, RedisFault> {
    match timeout(CONNECT_MAX, connecting).await {
        Ok(done) => done.map_err(|error| RedisFault::from(&error)),
        Err(_) => Err(RedisFault::TimedOut),
    }
}

async fn connections(settings: &Redis, channel: &str, attempt: usize) -> RedisResult<(Connection, PubSub)> {
    if let RedisPlace::Cluster(nodes) = &settings.url.place {
        let connection = cluster(settings, nodes).await?;
        // What is published on one node of a cluster is heard on all.
        let client = first_of(settings, &rotated(nodes, attempt))?;
        let mut news = client.get_async_pubsub().await?;
        news.subscribe(channel).await?;
        return Ok((Connection::Cluster(Box::new(connection)), news));
    }
    let client = client_at(settings, attempt).await?;
    let connection = commands_of(&client).await?;
    let mut news = client.get_async_pubsub().await?;
    news.subscribe(channel).await?;
    Ok((connection, news))
}

/// The one server that commands go to; of a cluster, one of those named.
async fn client_at(settings: &Redis, attempt: usize) -> RedisResult<Client> {
    match &settings.url.place {
        RedisPlace::One(host, port) => client_of(settings, address(settings, host, *port)),
        RedisPlace::Unix(path) => client_of(settings, ConnectionAddr::Unix(path.clone())),
        RedisPlace::Sentinel { sentinels, master } => {
            master_of(settings, &rotated(sentinels, attempt), master).await
        }
        RedisPlace::Cluster(nodes) => first_of(settings, nodes),
    }
}

async fn commands_of(client: &Client) -> RedisResult<Connection> {
    // Operations have limits of their own.
    let config =
        AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT_MAX)).set_response_timeout(None);
    Ok(Connection::One(client.get_multiplexed_async_connection_with_config(&config).await?))
}

/// Asks the Sentinels anew: they know who is the master now.
async fn master_of(settings: &Redis, sentinels: &[(String, u16)], master: &str) -> RedisResult<Client> {
    let addresses = sentinels.iter().map(|(host, port)| address(settings, host, *port));
    let mut builder = SentinelClientBuilder::new(addresses, master, SentinelServerType::Master)?
        .set_client_to_redis_db(settings.url.db.into());
    let RedisLogin { user, password } = &settings.url.login;
    if let Some(user) = user {
        builder = builder.set_client_to_redis_username(user);
    }
    if let Some(password) = password {
        builder = builder.set_client_to_redis_password(password.expose());
    }
    let RedisLogin { user, password } = &settings.url.sentinel_login;
    if let Some(user) = user {
        builder = builder.set_client_to_sentinel_username(user);
    }
    if let Some(password) = password {
        builder = builder.set_client_to_sentinel_password(password.expose());
    }
    if settings.url.tls {
        builder = builder
            .set_client_to_redis_tls_mode(TlsMode::Secure)
            .set_client_to_redis_certificates(roots(settings))
            .set_client_to_sentinel_tls_mode(TlsMode::Secure)
            .set_client_to_sentinel_certificates(roots(settings));
    }
    builder.build()?.async_get_client().await
}

async fn cluster(settings: &Redis, nodes: &[(String, u16)]) -> RedisResult<ClusterConnection> {
    let infos = nodes.iter().map(|(host, port)| info_of(settings, address(settings, host, *port)));
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

fn info_of(settings: &Redis, address: ConnectionAddr) -> RedisResult<ConnectionInfo> {
    let mut login = RedisConnectionInfo::default().set_db(settings.url.db.into());
    if let Some(user) = &settings.url.login.user {
        login = login.set_username(user);
    }
    if let Some(password) = &settings.url.login.password {
        login = login.set_password(password.expose());
    }
    Ok(address.into_connection_info()?.set_redis_settings(login))
}

fn client_of(settings: &Redis, address: ConnectionAddr) -> RedisResult<Client> {
    let info = info_of(settings, address)?;
    if settings.url.tls { Client::build_with_tls(info, roots(settings)) } else { Client::open(info) }
}

fn first_of(settings: &Redis, nodes: &[(String, u16)]) -> RedisResult<Client> {
    let nowhere = || RedisError::from((ErrorKind::InvalidClientConfig, "a cluster has at least one node"));
    let (host, port) = nodes.first().ok_or_else(nowhere)?;
    client_of(settings, address(settings, host, *port))
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
