//! Media: what was uploaded, within a bound, and what control arranged.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;

use super::clock::Ms;
use super::reply::{Content, Reply};
use super::request::{Call, Files, Part};

/// All media of all accounts.
#[derive(Debug, Default)]
pub(super) struct MediaShelf {
    items: HashMap<String, Media>,
    order: VecDeque<String>,
    bytes: u64,
}

/// One uploaded file.
#[derive(Debug, Clone)]
pub(super) struct Media {
    /// Whose it is; `None`: everyone's.
    pub(super) account: Option<usize>,
    pub(super) kind: MediaKind,
    pub(super) name: String,
    pub(super) content_type: String,
    pub(super) content: Content,
    pub(super) created_at: Ms,
    /// Temporary media are kept three days (§8).
    pub(super) lasts: Lasts,
}

/// What `type=` names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MediaKind {
    Image,
    Voice,
    Video,
    Thumb,
}

/// How long a file is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lasts {
    ThreeDays,
    ForEver,
}

// === impl MediaShelf ===

impl MediaShelf {
    /// Puts a file on the shelf; the oldest make room.
    pub(super) fn put(&mut self, id: String, media: Media) {
        self.remove(&id);
        self.bytes = self.bytes.saturating_add(media.kept_bytes());
        self.order.push_back(id.clone());
        self.items.insert(id, media);
        while self.bytes > KEPT_BYTES_MAX || self.items.len() > ITEMS_MAX {
            let Some(oldest) = self.order.pop_front() else { break };
            self.forget(&oldest);
        }
    }

    /// An account's file, unless it is past its time.
    pub(super) fn find(&self, id: &str, account: usize, lasts: Lasts, now: Ms) -> Option<&Media> {
        self.items.get(id).filter(|media| {
            let theirs = media.account.is_none_or(|owner| owner == account);
            let kept = media.account.is_none() || media.lasts == lasts;
            theirs && kept && (media.lasts == Lasts::ForEver || now < media.created_at + THREE_DAYS_MS)
        })
    }

    pub(super) fn remove(&mut self, id: &str) {
        if self.items.contains_key(id) {
            self.order.retain(|known| known != id);
            self.forget(id);
        }
    }

    /// An account's permanent files of one kind, the newest first.
    pub(super) fn permanent(&self, account: usize, kind: MediaKind) -> Vec<(&String, &Media)> {
        let theirs = |id: &String| self.items.get_key_value(id);
        let wanted = |media: &Media| {
            media.account == Some(account) && media.kind == kind && media.lasts == Lasts::ForEver
        };
        self.order.iter().rev().filter_map(theirs).filter(|(_, media)| wanted(media)).collect()
    }

    fn forget(&mut self, id: &str) {
        if let Some(media) = self.items.remove(id) {
            self.bytes = self.bytes.saturating_sub(media.kept_bytes());
        }
    }
}

// === impl Media ===

impl Media {
    /// The file as an answer: binary with its type and a name, or, for a video, where to fetch it.
    pub(super) fn as_reply(&self, id: &str) -> Reply {
        let file_name = format!("{id}.{}", self.kind.extension());
        Reply::file(&self.content_type, Some(file_name), self.content.clone())
    }

    fn kept_bytes(&self) -> u64 {
        match &self.content {
            Content::Bytes(bytes) => u64::try_from(bytes.len()).unwrap_or(u64::MAX),
            Content::Pattern(_) => 0,
        }
    }
}

// === impl MediaKind ===

impl MediaKind {
    pub(super) fn parse(text: &str) -> Option<Self> {
        match text {
            "image" => Some(Self::Image),
            "voice" => Some(Self::Voice),
            "video" => Some(Self::Video),
            "thumb" => Some(Self::Thumb),
            _ => None,
        }
    }

    /// The longest file, and the errcode beyond. WeChat's page contradicts itself about images; 10 MB is its newer
    /// word (§8).
    fn limit(self) -> (u64, i64) {
        match self {
            Self::Image => (10 << 20, 40009),
            Self::Voice => (2 << 20, 40006),
            Self::Video => (10 << 20, 40006),
            Self::Thumb => (64 << 10, 40006),
        }
    }

    fn content_type(self) -> &'static str {
        match self {
            Self::Image | Self::Thumb => "image/jpeg",
            Self::Voice => "audio/amr",
            Self::Video => "video/mp4",
        }
    }

    fn extension(self) -> &'static str {
        match self {
            Self::Image | Self::Thumb => "jpg",
            Self::Voice => "amr",
            Self::Video => "mp4",
        }
    }
}

/// The field `media`, checked: it must have a file name, some bytes, and not too many.
pub(super) fn uploaded(call: &Call, bytes_max: u64, too_long: i64) -> Result<&Part, i64> {
    if matches!(call.files, Files::TooLong) {
        return Err(too_long);
    }
    let part = call.file("media").ok_or(41005)?;
    if part.bytes.is_empty() {
        return Err(44001);
    }
    if u64::try_from(part.bytes.len()).unwrap_or(u64::MAX) > bytes_max {
        return Err(too_long);
    }
    Ok(part)
}

/// An upload of a kind, ready for the shelf.
pub(super) fn take(call: &Call, account: usize, lasts: Lasts, now: Ms) -> Result<Media, i64> {
    let kind = call.query_or_form("type").and_then(MediaKind::parse).ok_or(40004)?;
    let (bytes_max, too_long) = kind.limit();
    let part = uploaded(call, bytes_max, too_long)?;
    Ok(Media {
        account: Some(account),
        kind,
        name: part.file_name.clone().unwrap_or_default(),
        content_type: part
            .content_type
            .clone()
            .filter(|known| known != "application/octet-stream")
            .unwrap_or_else(|| kind.content_type().to_owned()),
        // A copy, so that a small file does not keep the whole request alive.
        content: Content::Bytes(Bytes::copy_from_slice(&part.bytes)),
        created_at: now,
        lasts,
    })
}

const KEPT_BYTES_MAX: u64 = 256 << 20;
const ITEMS_MAX: usize = 20_000;
const THREE_DAYS_MS: Ms = 3 * 24 * 3_600_000;
