//! Checks where requests go.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use super::super::{Upstream, UpstreamHost, file};
use super::Checker;
use super::server::is_loopback;

impl Checker<'_> {
    pub(super) fn upstream(&mut self, file: &file::Upstream) -> Upstream {
        let by_default = Upstream::default();
        let hosts = match &file.hosts {
            Some(written) => self.hosts("upstream.hosts", written, &by_default.hosts),
            None => by_default.hosts,
        };
        let wecom_hosts = match &file.wecom_hosts {
            Some(written) => self.hosts("upstream.wecom_hosts", written, &by_default.wecom_hosts),
            None => by_default.wecom_hosts,
        };
        let ca_pem = file.ca_file.as_ref().and_then(|path| self.authorities("upstream.ca_file", path));
        if ca_pem.is_some() {
            self.note("upstream.ca_file", "given");
        }
        let http2 = self.http2(file, &hosts);
        let mut upstream = Upstream {
            hosts,
            wecom_hosts,
            ca_pem,
            http2,
            connect: self.span(
                "upstream.connect_ms_max",
                file.connect_ms_max.as_ref(),
                by_default.connect,
                100..=30_000,
            ),
            idle: self.span(
                "upstream.idle_ms_max",
                file.idle_ms_max.as_ref(),
                by_default.idle,
                1_000..=600_000,
            ),
            idle_connections_max: self.count(
                "upstream.idle_connections_max",
                file.idle_connections_max.as_ref(),
                by_default.idle_connections_max,
                1..=65_536,
            ),
            connections_max: self.count(
                "upstream.connections_max",
                file.connections_max.as_ref(),
                by_default.connections_max,
                1..=65_536,
            ),
        };
        if upstream.idle_connections_max > upstream.connections_max {
            upstream.idle_connections_max = upstream.connections_max;
            if let Some(written) = &file.idle_connections_max {
                let message =
                    "`upstream.idle_connections_max` is above `connections_max`, it is at most the same";
                self.faults.at(written, message);
            }
        }
        upstream
    }

    fn http2(&mut self, file: &file::Upstream, hosts: &[UpstreamHost]) -> bool {
        let Some(written) = file.http2.as_ref().filter(|written| *written.get_ref()) else { return false };
        if !hosts.is_empty() && !hosts.iter().any(|host| host.tls) {
            let message = "`upstream.http2` is agreed on within TLS, and none of the `hosts` has https://";
            self.faults.at(written, message);
        }
        self.note("upstream.http2", true);
        true
    }

    fn hosts(
        &mut self,
        setting: &'static str,
        written: &file::Texts,
        by_default: &[UpstreamHost],
    ) -> Vec<UpstreamHost> {
        if written.get_ref().is_empty() {
            let example = by_default.first().map(ToString::to_string).unwrap_or_default();
            let message = format!("`{setting}` is empty, it takes at least one, such as \"{example}\"");
            self.faults.at(written, message);
        }
        let mut hosts = Vec::new();
        for text in written.get_ref() {
            match host(text.get_ref()) {
                Ok(host) if hosts.contains(&host) => {
                    self.faults.at(text, format!("`{setting}` has this host already, leave it out"));
                }
                Ok(host) => hosts.push(host),
                Err(fault) => self.faults.at(text, format!("`{setting}` {fault}")),
            }
        }
        if hosts != by_default {
            let all: Vec<String> = hosts.iter().map(ToString::to_string).collect();
            self.note(setting, all.join(", "));
        }
        hosts
    }
}

/// Takes `https://api.weixin.qq.com` apart.
fn host(text: &str) -> Result<UpstreamHost, &'static str> {
    let (tls, authority) = if let Some(authority) = text.strip_prefix("https://") {
        (true, authority)
    } else if let Some(authority) = text.strip_prefix("http://") {
        (false, authority)
    } else {
        return Err("takes a host with its scheme, such as \"https://api.weixin.qq.com\"");
    };
    if authority.contains('@') {
        return Err("has a user or a password in a host, they have no place there");
    }
    if authority.contains(['/', '?', '#', '\\']) {
        return Err(
            "has a path or a query after a host, it ends with the host and its port, without a slash",
        );
    }
    let (name, port) =
        split_port(authority).ok_or("has a host whose port is not a number from 1 to 65535")?;
    let port = port.unwrap_or(if tls { 443 } else { 80 });
    let (host, ip) = match name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
        Some(inner) => {
            let ip: Ipv6Addr =
                inner.parse().map_err(|_| "has brackets around what is not an IPv6 address")?;
            (ip.to_string(), Some(IpAddr::V6(ip)))
        }
        None => (name.to_ascii_lowercase(), name.parse().ok()),
    };
    if ip.is_none() && !is_host_name(&host) {
        return Err("has a host that is neither a name nor an address");
    }
    let on_this_machine = host == "localhost" || ip.is_some_and(is_loopback);
    if !tls && !on_this_machine {
        return Err("would send tokens unencrypted, a host that is not this machine needs https://");
    }
    Ok(UpstreamHost { tls, host, port })
}

/// The host, and the port if there is one.
pub(super) fn split_port(authority: &str) -> Option<(&str, Option<u16>)> {
    let host_end = authority.rfind(']').map_or(0, |at| at + 1);
    let Some(colon) = authority.get(host_end..)?.rfind(':').map(|at| at + host_end) else {
        return Some((authority, None));
    };
    let (host, port) = (authority.get(..colon)?, authority.get(colon + 1..)?);
    let port = port.bytes().all(|byte| byte.is_ascii_digit()).then(|| port.parse().ok())??;
    (port != 0).then_some((host, Some(port)))
}

pub(super) fn is_host_name(host: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    // A name whose last label is a number would be taken for an IPv4 address by some resolvers.
    let ends_in_number =
        host.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
    host.len() <= 253 && host.split('.').all(is_label) && !ends_in_number
}

// === impl Upstream ===

impl Default for Upstream {
    fn default() -> Self {
        let host = |name: &str| UpstreamHost { tls: true, host: name.to_owned(), port: 443 };
        Self {
            hosts: vec![host("api.weixin.qq.com"), host("api2.weixin.qq.com")],
            wecom_hosts: vec![host("qyapi.weixin.qq.com")],
            ca_pem: None,
            http2: false,
            connect: Duration::from_secs(3),
            idle: Duration::from_secs(30),
            idle_connections_max: 512,
            connections_max: 4096,
        }
    }
}

// === impl UpstreamHost ===

impl std::fmt::Display for UpstreamHost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}://{}", if self.tls { "https" } else { "http" }, self.authority())
    }
}
