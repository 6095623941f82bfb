//! weigate: a reverse proxy for the WeChat API that holds the AppSecrets, keeps each account's `access_token`
//! fresh and puts it into every request.
//!
//! This page is the map. It names the rooms and what they promise; the reasons for a decision stand in the module
//! that carries it, under a heading *Why*.
//!
//! # Two straight lines
//!
//! ```text
//! a request's way   accept → authenticate → route → body → token → forward → inspect → (once more) → respond
//!                   src/proxy, one single-threaded runtime per core; nothing on it locks or changes threads
//!
//! a token's life    schedule → keeper → source → cell → store
//!                   src/token, one keeper per account, a task while it has something to do, on a runtime of its own;
//!                   the only writer of a token
//! ```
//!
//! They meet in one place: the cell, an `ArcSwap` that the keeper writes and requests read, each worker once for each new
//! token. Beside it, for programs that do not come through here, `token/publish` puts live tokens under the Redis keys of
//! other SDKs.
//!
//! # Rooms, top first
//!
//! ```text
//!  6  main, commands            arguments, log set-up, signals, exit codes; one file a command
//!  5  app                       the one place that knows every part: builds, reloads and drains them
//!  4  proxy    admin   sandbox  a request's way · the operators' listener · a stand-in for api.weixin.qq.com
//!  3  token    clients          a token's life · who may call, what and how much
//!  2  telemetry                 what operators see
//!  1  config                    from proxy.toml to checked values
//!  0  types    wechat           plain values · what WeChat says and means, pure functions over bytes
//! ```
//!
//! A room may name what stands below it, nothing above or beside it; `tests/it/tidy.rs` holds that.
//!
//! # Promises
//!
//! * A request reaches WeChat with a token that was alive when it was sent, or not at all.
//! * A request goes to WeChat at most twice, and twice only when WeChat said that the token is invalid
//!   (it turns such a request away before it acts) or, for GET and HEAD, when its connection died without a byte of a
//!   reply. What WeChat says it has not looked at, as HTTP/2 can, does not count.
//! * One account's token is fetched by one keeper; whoever hangs up stops nothing.
//! * An AppSecret, a token or a client key is in no log, error text, metric, panic or response header.
//! * Every byte of path, query and body but `access_token` arrives as it was sent.

pub mod admin;
pub mod app;
pub mod clients;
pub mod config;
pub mod proxy;
pub mod sandbox;
pub mod telemetry;
pub mod token;
pub mod types;
pub mod wechat;
