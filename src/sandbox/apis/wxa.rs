//! Mini programs: codes as images, content checks, phone numbers.

use serde_json::{Value, json};

use super::{Answer, Api, Desk, post, upload};
use crate::sandbox::forge;
use crate::sandbox::media;
use crate::sandbox::reply::{Content, Reply};

pub(super) const APIS: &[Api] = &[
    post("/wxa/getwxacode", code_for_path),
    post("/cgi-bin/wxaapp/createwxaqrcode", code_for_path),
    post("/wxa/getwxacodeunlimit", code_for_scene),
    post("/wxa/msg_sec_check", check_text),
    upload("/wxa/img_sec_check", check_image),
    post("/wxa/business/getuserphonenumber", phone_number),
];

fn code_for_path(desk: &mut Desk<'_>) -> Answer {
    let path = desk.text("path", 40159)?;
    if path.len() > 1024 { Err(40159) } else { Ok(code(&path)) }
}

/// A scene has 1 to 32 visible characters.
fn code_for_scene(desk: &mut Desk<'_>) -> Answer {
    let scene = desk.text("scene", 40169)?;
    let visible = |letter: char| letter.is_ascii_graphic();
    if scene.len() > 32 || !scene.chars().all(visible) { Err(40169) } else { Ok(code(&scene)) }
}

/// The image's comment holds what the code stands for, so that a test can tell whose answer it got.
fn code(stands_for: &str) -> Reply {
    Reply::file("image/jpeg", None, Content::Bytes(forge::jpeg(stands_for).into()))
}

/// The second version (`"version":2`) answers with a judgement, the first with 87014 for what is risky. The text
/// that WeChat's page gives for trying it out is risky, as is anything with `risky` in it: *our choice*.
fn check_text(desk: &mut Desk<'_>) -> Answer {
    let content = desk.text("content", 44002)?;
    let risky = content.contains("特3456书yuuo莞6543李zxcz蒜7782法fgnv级") || content.contains("risky");
    if desk.value().get("version").is_some_and(|version| *version == json!(2) || *version == json!("2")) {
        let (suggest, label) = if risky { ("risky", 20001) } else { ("pass", 100) };
        return Ok(Reply::json(&json!({
            "errcode": 0, "errmsg": "ok", "result": { "suggest": suggest, "label": label },
            "detail": [{ "strategy": "content_model", "errcode": 0, "suggest": suggest, "label": label }],
            "trace_id": forge::rid(desk.now),
        })));
    }
    if risky { Err(87014) } else { Ok(Reply::ok()) }
}

/// An image above 1 MB gets -1, not an error about its size (§8).
fn check_image(desk: &mut Desk<'_>) -> Answer {
    let part = media::uploaded(desk.call, 1 << 20, -1)?;
    let risky = part.file_name.as_deref().is_some_and(|name| name.contains("risky"));
    if risky { Err(87014) } else { Ok(Reply::ok()) }
}

fn phone_number(desk: &mut Desk<'_>) -> Answer {
    let code = desk.text("code", 40029)?;
    desk.users.use_code(&desk.account.app_id, &code)?;
    let watermark: Value = json!({ "timestamp": desk.seconds(), "appid": desk.account.app_id });
    Ok(Reply::json(&json!({
        "errcode": 0, "errmsg": "ok",
        "phone_info": {
            "phoneNumber": "13580006666", "purePhoneNumber": "13580006666", "countryCode": "86",
            "watermark": watermark,
        },
    })))
}
