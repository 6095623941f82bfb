//! `POST /reload`: an operator asks that the configuration is read again, and hears what came of it.
//!
//! # Why a field of its own
//!
//! A page on another site can make an operator's browser send a form here, and so can one that has renamed itself to
//! this address (DNS rebinding). A form cannot set a field that is not its own, and no browser sends a POST without
//! `Origin`; so a request must have the one and must not have the other.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, ORIGIN};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};

use super::text;
use crate::config::{ConfigError, ConfigErrors};

/// Somebody waits for a reload.
#[derive(Debug)]
pub struct ReloadAsked {
    /// Where to say what came of it.
    pub answer: oneshot::Sender<Outcome>,
}

/// Where reloads are asked for.
pub type AskReload = mpsc::Sender<ReloadAsked>;

/// What came of a reload; where there are faults the old configuration stays in force.
pub type Outcome = Result<Reloaded, ConfigErrors>;

/// What a reload changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reloaded {
    /// Sections and settings that differ and are in force now.
    pub changed: Vec<&'static str>,
    /// Those that differ and are left out, since they need a restart.
    pub needs_restart: Vec<&'static str>,
}

#[derive(Serialize)]
struct Fault<'a> {
    line: Option<usize>,
    column: Option<usize>,
    message: &'a str,
}

/// The field that says that no browser was led here.
const OPERATOR: &str = "x-weigate-operator";

/// Asks for a reload and waits for what comes of it.
pub(super) async fn reload<B>(request: &Request<B>, ask: &AskReload) -> Response<Full<Bytes>> {
    let headers = request.headers();
    if !headers.contains_key(OPERATOR) || headers.contains_key(ORIGIN) {
        let line = format!("a reload is asked for with the field {OPERATOR}: 1, and not by a browser\n");
        return text(StatusCode::FORBIDDEN, line);
    }
    let (answer, answered) = oneshot::channel();
    let asked = ask.send(ReloadAsked { answer }).await;
    let (Ok(()), Ok(outcome)) = (asked, answered.await) else {
        return text(StatusCode::SERVICE_UNAVAILABLE, "nothing to reload: no file, or stopping\n".to_owned());
    };
    match outcome {
        Ok(reloaded) => json(StatusCode::OK, &reloaded),
        Err(faults) => {
            let faults: Vec<Fault<'_>> = faults.iter().map(Fault::of).collect();
            json(StatusCode::UNPROCESSABLE_ENTITY, &serde_json::json!({ "faults": faults }))
        }
    }
}

fn json(status: StatusCode, value: &impl Serialize) -> Response<Full<Bytes>> {
    // Nothing here has a key that is not a text, the one thing that could fail.
    let mut response = text(status, serde_json::to_string(value).unwrap_or_default());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

// === impl Fault ===

impl<'a> Fault<'a> {
    fn of(error: &'a ConfigError) -> Self {
        let (line, column) = error.place().map(|place| (place.line, place.column)).unzip();
        Self { line, column, message: error.message() }
    }
}
