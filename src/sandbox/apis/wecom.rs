//! `WeCom`'s own: members, departments, applications, messages, media, tickets.
//!
//! Pages below `developer.work.weixin.qq.com/document/path/`: 90196 (user/get), 90208 (department/list), 90227
//! (agent/get), 90236 (message/send), 90253 (media/upload), 90506 (`get_jsapi_ticket`), 91023 (getuserinfo); read
//! 2026-11-22. Every other path below `/cgi-bin/` says "ok" to a good token.

#![expect(clippy::unnecessary_wraps, reason = "the functions of the table have one type")]

use serde_json::{Value, json};

use super::{Answer, Api, Desk, get, manage, post, upload};
use crate::sandbox::forge;
use crate::sandbox::media::{self, Lasts};
use crate::sandbox::reply::Reply;

const APIS: &[Api] = &[
    get("/cgi-bin/user/get", member),
    get("/cgi-bin/user/simplelist", members),
    get("/cgi-bin/department/list", departments),
    get("/cgi-bin/agent/get", application),
    get("/cgi-bin/user/getuserinfo", who_is_it),
    get("/cgi-bin/auth/getuserinfo", who_is_it),
    post("/cgi-bin/message/send", send),
    upload("/cgi-bin/media/upload", upload_media),
    get("/cgi-bin/media/get", super::files::download_media),
    get("/cgi-bin/get_jsapi_ticket", manage::corp_ticket),
    get("/cgi-bin/ticket/get", manage::application_ticket),
    get("/cgi-bin/getcallbackip", manage::addresses),
    get("/cgi-bin/get_api_domain_ip", manage::addresses),
];

pub(super) fn find(path: &str) -> Option<&'static Api> {
    APIS.iter().find(|api| api.path == path)
}

/// A member who begins with `nobody` does not exist.
fn member(desk: &mut Desk<'_>) -> Answer {
    let userid = desk.call.query("userid").filter(|id| !id.is_empty()).ok_or(40003)?;
    if userid.starts_with("nobody") {
        return Err(60111);
    }
    Ok(Reply::json(&json!({
        "errcode": 0, "errmsg": "ok", "userid": userid, "name": userid, "department": [1], "order": [1],
        "position": "", "gender": "1", "status": 1, "isleader": 0, "enable": 1, "main_department": 1,
        "open_userid": forge::openid(&desk.account.app_id, userid),
    })))
}

fn members(desk: &mut Desk<'_>) -> Answer {
    desk.call.query("department_id").filter(|id| !id.is_empty()).ok_or(60123)?;
    let list: Vec<_> = ["zhangsan", "lisi", "wangwu"]
        .into_iter()
        .map(|who| json!({ "userid": who, "name": who, "department": [1] }))
        .collect();
    Ok(Reply::json(&json!({ "errcode": 0, "errmsg": "ok", "userlist": list })))
}

fn departments(_: &mut Desk<'_>) -> Answer {
    let list = json!([
        { "id": 1, "name": "广州研发中心", "parentid": 0, "order": 100_000_000 },
        { "id": 2, "name": "研发部", "parentid": 1, "order": 10 },
    ]);
    Ok(Reply::json(&json!({ "errcode": 0, "errmsg": "ok", "department": list })))
}

fn application(desk: &mut Desk<'_>) -> Answer {
    let id: u64 = desk.call.query("agentid").and_then(|id| id.parse().ok()).ok_or(40056)?;
    Ok(Reply::json(&json!({
        "errcode": 0, "errmsg": "ok", "agentid": id, "name": desk.account.app_id, "square_logo_url": "",
        "description": "", "close": 0, "redirect_domain": "", "report_location_flag": 0, "isreportenter": 0,
    })))
}

/// As on the other platform, a code that begins with `good` works, once.
fn who_is_it(desk: &mut Desk<'_>) -> Answer {
    let code = desk.call.query("code").ok_or(40029)?;
    desk.users.use_code(&desk.account.app_id, code).map_err(|_| 40029)?;
    Ok(Reply::json(&json!({ "errcode": 0, "errmsg": "ok", "UserId": code, "userid": code, "DeviceId": "" })))
}

fn send(desk: &mut Desk<'_>) -> Answer {
    let to = |name: &str| desk.value().get(name).and_then(Value::as_str).is_some_and(|to| !to.is_empty());
    if !["touser", "toparty", "totag"].into_iter().any(to) {
        return Err(81013);
    }
    let kind = desk.text("msgtype", 40008)?;
    desk.value().get(&kind).ok_or(40008)?;
    // The page has a number; SDKs send texts too.
    desk.value().get("agentid").filter(|id| id.is_number() || id.is_string()).ok_or(40056)?;
    let msgid = forge::text(64);
    Ok(Reply::json(&json!({ "errcode": 0, "errmsg": "ok", "invaliduser": "", "msgid": msgid })))
}

fn upload_media(desk: &mut Desk<'_>) -> Answer {
    let media = media::take(desk.call, desk.index, Lasts::ThreeDays, desk.now)?;
    let (id, kind) = (forge::text(64), desk.call.query_or_form("type").unwrap_or("").to_owned());
    desk.media.put(id.clone(), media);
    // A text, unlike the other platform's number.
    let created_at = desk.seconds().to_string();
    Ok(Reply::json(&json!({
        "errcode": 0, "errmsg": "ok", "type": kind, "media_id": id, "created_at": created_at,
    })))
}
