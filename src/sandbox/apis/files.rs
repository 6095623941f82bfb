//! Temporary media, permanent material, drafts, publishing.

#![expect(clippy::unnecessary_wraps, reason = "the functions of the table have one type")]

use serde_json::{Value, json};

use super::{Answer, Api, Desk, get, post, upload};
use crate::sandbox::forge;
use crate::sandbox::media::{self, Lasts, MediaKind};
use crate::sandbox::reply::Reply;

pub(super) const APIS: &[Api] = &[
    upload("/cgi-bin/media/upload", upload_media),
    get("/cgi-bin/media/get", download_media),
    get("/cgi-bin/media/get/jssdk", download_voice),
    upload("/cgi-bin/media/uploadimg", upload_image),
    upload("/cgi-bin/material/add_material", add_material),
    post("/cgi-bin/material/get_material", material),
    get("/cgi-bin/material/get_materialcount", count_material),
    post("/cgi-bin/material/batchget_material", list_material),
    post("/cgi-bin/material/del_material", delete_material),
    post("/cgi-bin/draft/add", add_draft),
    post("/cgi-bin/draft/get", draft),
    post("/cgi-bin/draft/delete", delete_draft),
    get("/cgi-bin/draft/count", count_drafts),
    post("/cgi-bin/freepublish/submit", publish),
];

fn upload_media(desk: &mut Desk<'_>) -> Answer {
    let media = media::take(desk.call, desk.index, Lasts::ThreeDays, desk.now)?;
    let id = forge::text(64);
    let (kind, name) = match media.kind {
        MediaKind::Thumb => ("thumb", "thumb_media_id"),
        MediaKind::Image => ("image", "media_id"),
        MediaKind::Voice => ("voice", "media_id"),
        MediaKind::Video => ("video", "media_id"),
    };
    let reply = Reply::json(&json!({ "type": kind, name: id, "created_at": desk.seconds() }));
    desk.media.put(id, media);
    Ok(reply)
}

pub(super) fn download_media(desk: &mut Desk<'_>) -> Answer {
    let id = desk.call.query("media_id").filter(|id| !id.is_empty()).ok_or(41006)?;
    let media = desk.media.find(id, desk.index, Lasts::ThreeDays, desk.now).ok_or(40007)?;
    if media.kind == MediaKind::Video {
        let url = format!("http://vweixinp.tc.qq.com/{id}.mp4");
        return Ok(Reply::json(&json!({ "video_url": url })));
    }
    Ok(media.as_reply(id))
}

fn download_voice(desk: &mut Desk<'_>) -> Answer {
    let id = desk.call.query("media_id").filter(|id| !id.is_empty()).ok_or(41006)?;
    let media = desk.media.find(id, desk.index, Lasts::ThreeDays, desk.now).ok_or(40007)?;
    if media.kind == MediaKind::Voice { Ok(media.as_reply(id)) } else { Err(40007) }
}

fn upload_image(desk: &mut Desk<'_>) -> Answer {
    media::uploaded(desk.call, 1 << 20, 40009)?;
    let url = format!("http://mmbiz.qpic.cn/mmbiz_jpg/{}/0?wx_fmt=jpeg", forge::text(80));
    Ok(Reply::json(&json!({ "url": url })))
}

fn add_material(desk: &mut Desk<'_>) -> Answer {
    let media = media::take(desk.call, desk.index, Lasts::ForEver, desk.now)?;
    let id = forge::text(64);
    let mut reply = json!({ "media_id": id });
    if let (MediaKind::Image | MediaKind::Thumb, Some(fields)) = (media.kind, reply.as_object_mut()) {
        fields.insert("url".to_owned(), material_url(&id).into());
    }
    desk.media.put(id, media);
    Ok(Reply::json(&reply))
}

fn material(desk: &mut Desk<'_>) -> Answer {
    let id = desk.text("media_id", 40007)?;
    let media = desk.media.find(&id, desk.index, Lasts::ForEver, desk.now).ok_or(40007)?;
    if media.kind == MediaKind::Video {
        let down_url = format!("http://mp.weixin.qq.com/mp/mp/video?mid={id}");
        return Ok(Reply::json(&json!({ "title": media.name, "description": "", "down_url": down_url })));
    }
    Ok(media.as_reply(&id))
}

fn count_material(desk: &mut Desk<'_>) -> Answer {
    let count = |kind| desk.media.permanent(desk.index, kind).len();
    Ok(Reply::json(&json!({
        "voice_count": count(MediaKind::Voice), "video_count": count(MediaKind::Video),
        "image_count": count(MediaKind::Image), "news_count": 0,
    })))
}

fn list_material(desk: &mut Desk<'_>) -> Answer {
    let kind = MediaKind::parse(&desk.text("type", 40004)?);
    let number = |name: &str| desk.value().get(name).and_then(Value::as_u64).unwrap_or(0);
    let (offset, count) = (usize::try_from(number("offset")), usize::try_from(number("count")));
    let (offset, count) = (offset.unwrap_or(usize::MAX), count.unwrap_or(0).clamp(1, 20));
    let all = kind.map(|kind| desk.media.permanent(desk.index, kind)).unwrap_or_default();
    let item = |(id, media): &(&String, &media::Media)| {
        json!({
            "media_id": id, "name": media.name, "update_time": media.created_at / 1000,
            "url": material_url(id),
        })
    };
    let items: Vec<_> = all.iter().skip(offset).take(count).map(item).collect();
    Ok(Reply::json(&json!({ "total_count": all.len(), "item_count": items.len(), "item": items })))
}

fn delete_material(desk: &mut Desk<'_>) -> Answer {
    let id = desk.text("media_id", 40007)?;
    desk.media.find(&id, desk.index, Lasts::ForEver, desk.now).ok_or(40007)?;
    desk.media.remove(&id);
    Ok(Reply::ok())
}

fn material_url(id: &str) -> String {
    format!("http://mmbiz.qpic.cn/mmbiz_jpg/{id}/0?wx_fmt=jpeg")
}

fn add_draft(desk: &mut Desk<'_>) -> Answer {
    let articles = desk.value().get("articles").and_then(Value::as_array).filter(|list| !list.is_empty());
    let articles = articles.cloned().ok_or(44002)?;
    let id = forge::text(64);
    desk.account.shelf.add_draft(id.clone(), &Value::from(articles))?;
    Ok(Reply::json(&json!({ "media_id": id })))
}

fn draft(desk: &mut Desk<'_>) -> Answer {
    let id = desk.text("media_id", 40007)?;
    let articles = desk.account.shelf.draft(&id).ok_or(40007)?;
    let articles: Value = serde_json::from_str(articles).unwrap_or(Value::Null);
    let now = desk.seconds();
    Ok(Reply::json(&json!({ "news_item": articles, "create_time": now, "update_time": now })))
}

fn delete_draft(desk: &mut Desk<'_>) -> Answer {
    let id = desk.text("media_id", 40007)?;
    desk.account.shelf.remove_draft(&id);
    Ok(Reply::ok())
}

fn count_drafts(desk: &mut Desk<'_>) -> Answer {
    Ok(Reply::json(&json!({ "total_count": desk.account.shelf.draft_count() })))
}

fn publish(desk: &mut Desk<'_>) -> Answer {
    let id = desk.text("media_id", 40007)?;
    desk.account.shelf.draft(&id).ok_or(40007)?;
    let publish_id = fastrand::u64(100_000_000..2_247_483_647).to_string();
    Ok(Reply::json(&json!({ "errcode": 0, "errmsg": "ok", "publish_id": publish_id })))
}
