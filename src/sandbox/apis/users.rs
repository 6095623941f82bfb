//! Menus, followers, tags, codes with parameters, statistics.

#![expect(clippy::unnecessary_wraps, reason = "the functions of the table have one type")]

use serde_json::{Value, json};

use super::{Allowed, Answer, Api, Desk, Needs, get, post};
use crate::sandbox::forge;
use crate::sandbox::reply::Reply;

pub(super) const APIS: &[Api] = &[
    post("/cgi-bin/menu/create", create_menu),
    get("/cgi-bin/menu/get", menu),
    get("/cgi-bin/menu/delete", delete_menu),
    get("/cgi-bin/user/info", user),
    get("/cgi-bin/user/get", followers),
    post("/cgi-bin/user/info/batchget", users),
    post("/cgi-bin/tags/create", create_tag),
    get("/cgi-bin/tags/get", tags),
    post("/cgi-bin/qrcode/create", create_code),
    post("/cgi-bin/shorturl", shorten),
];

/// Every path below `/datacube/`.
pub(super) const DATACUBE: Api =
    Api { path: "/datacube/", method: Allowed::Post, needs: Needs::Json, answer: datacube };

fn create_menu(desk: &mut Desk<'_>) -> Answer {
    if !desk.value().get("button").is_some_and(Value::is_array) {
        return Err(40016);
    }
    let menu = desk.value().to_string();
    if menu.len() > MENU_BYTES_MAX {
        return Err(40016);
    }
    desk.account.shelf.menu = Some(menu);
    Ok(Reply::ok())
}

fn menu(desk: &mut Desk<'_>) -> Answer {
    let menu = desk.account.shelf.menu.as_deref().ok_or(46003)?;
    let menu: Value = serde_json::from_str(menu).unwrap_or(Value::Null);
    Ok(Reply::json(&json!({ "menu": menu })))
}

fn delete_menu(desk: &mut Desk<'_>) -> Answer {
    desk.account.shelf.menu = None;
    Ok(Reply::ok())
}

fn user(desk: &mut Desk<'_>) -> Answer {
    let openid = desk.call.query("openid").filter(|openid| !openid.is_empty()).ok_or(41009)?;
    Ok(Reply::json(&follower(openid)))
}

fn users(desk: &mut Desk<'_>) -> Answer {
    let list = desk.value().get("user_list").and_then(Value::as_array).ok_or(40032)?;
    if list.is_empty() || list.len() > 100 {
        return Err(40032);
    }
    let openids = list.iter().map(|user| user.get("openid").and_then(Value::as_str));
    let users: Option<Vec<_>> = openids.map(|openid| openid.map(follower)).collect();
    Ok(Reply::json(&json!({ "user_info_list": users.ok_or(40003)? })))
}

fn follower(openid: &str) -> Value {
    json!({
        "subscribe": 1, "openid": openid, "language": "zh_CN", "subscribe_time": 1_700_000_000,
        "unionid": forge::openid("unionid", openid), "remark": "", "groupid": 0, "tagid_list": [],
        "subscribe_scene": "ADD_SCENE_QR_CODE", "qr_scene": 0, "qr_scene_str": "",
    })
}

/// Three followers, always the same.
fn followers(desk: &mut Desk<'_>) -> Answer {
    let app_id = &desk.account.app_id;
    let openids: Vec<_> = ["1", "2", "3"].into_iter().map(|who| forge::openid(app_id, who)).collect();
    let next = openids.last().cloned().unwrap_or_default();
    Ok(Reply::json(&match desk.call.query("next_openid").filter(|from| !from.is_empty()) {
        Some(_) => json!({ "total": 3, "count": 0, "next_openid": "" }),
        None => json!({ "total": 3, "count": 3, "data": { "openid": openids }, "next_openid": next }),
    }))
}

fn create_tag(desk: &mut Desk<'_>) -> Answer {
    let name = desk.value().pointer("/tag/name").and_then(Value::as_str).unwrap_or("").to_owned();
    let id = desk.account.shelf.add_tag(&name)?;
    Ok(Reply::json(&json!({ "tag": { "id": id, "name": name } })))
}

fn tags(desk: &mut Desk<'_>) -> Answer {
    let tag = |(id, name)| json!({ "id": id, "name": name, "count": 0 });
    let tags: Vec<_> = desk.account.shelf.tags().map(tag).collect();
    Ok(Reply::json(&json!({ "tags": tags })))
}

fn create_code(desk: &mut Desk<'_>) -> Answer {
    let action = desk.text("action_name", 40053)?;
    let scene = desk.value().pointer("/action_info/scene").filter(|scene| scene.is_object());
    scene.ok_or(40053)?;
    let mut reply = json!({
        "ticket": format!("gQ{}==", forge::text(94)),
        "url": format!("http://weixin.qq.com/q/{}", forge::text(22)),
    });
    let expires = desk.value().get("expire_seconds").and_then(Value::as_u64).unwrap_or(60);
    match action.as_str() {
        "QR_SCENE" | "QR_STR_SCENE" => {
            if let Some(fields) = reply.as_object_mut() {
                fields.insert("expire_seconds".to_owned(), expires.min(2_592_000).into());
            }
        }
        "QR_LIMIT_SCENE" | "QR_LIMIT_STR_SCENE" => {}
        _ => return Err(40053),
    }
    Ok(Reply::json(&reply))
}

/// WeChat answered 40001 when the long URL itself held `access_token=` (2019, reproduced with curl; §3.4), so this
/// does: what a user typed can look like a token error.
fn shorten(desk: &mut Desk<'_>) -> Answer {
    let long_url = desk.text("long_url", 40039)?;
    if long_url.contains("access_token=") {
        return Err(40001);
    }
    let short_url = format!("https://w.url.cn/s/{}", forge::text(7));
    Ok(Reply::json(&json!({ "errcode": 0, "errmsg": "ok", "short_url": short_url })))
}

fn datacube(desk: &mut Desk<'_>) -> Answer {
    let from = desk.text("begin_date", 61500)?;
    desk.text("end_date", 61500)?;
    let list = if desk.call.path == "/datacube/getusersummary" {
        json!([{ "ref_date": from, "user_source": 0, "new_user": 0, "cancel_user": 0 }])
    } else {
        json!([])
    };
    Ok(Reply::json(&json!({ "list": list })))
}

const MENU_BYTES_MAX: usize = 64 << 10;
