"""wechatpy, as it comes from PyPI, against weigate.

    python wechatpy_client.py BASE_URL APP_ID CLIENT_KEY

Prints one JSON line for each call, {"call": ..., "answer": ...}, and in the middle {"pause": "revoke"}, after which it
waits for a line on stdin. The first call that goes wrong ends it with a traceback and exit code 1.

What is set differs from a program that talks to WeChat itself in two things: the secret is the client key, and the
base URL is ours. wechatpy has no one setting for the latter. It has the class attribute API_BASE_URL, on the client
and on API classes, and the method fetch_access_token, which it documents as what a subclass may override.
"""

import base64
import hashlib
import io
import json
import sys

from wechatpy import WeChatClient
from wechatpy.client import api as apis
from wechatpy.oauth import WeChatOAuth

WECHAT = 'https://api.weixin.qq.com'
BASE, APP_ID, KEY = sys.argv[1:]

for api in (apis.WeChatDataCube, apis.WeChatWxa):
    api.API_BASE_URL = api.API_BASE_URL.replace(WECHAT, BASE)


class Client(WeChatClient):
    API_BASE_URL = BASE + '/cgi-bin/'
    # How often it asked for a token: at first, and again for each call that was told of a dead one.
    fetches = 0

    def fetch_access_token(self):
        self.fetches += 1
        return self._fetch_access_token(
            url=BASE + '/cgi-bin/token',
            params={'grant_type': 'client_credential', 'appid': self.appid, 'secret': self.secret},
        )


class OAuth(WeChatOAuth):
    # Its calls after the login carry no secret, so the key goes into the URL, from where it becomes Basic.
    API_BASE_URL = BASE.replace('://', '://sdk:%s@' % KEY) + '/'


client = Client(APP_ID, KEY, timeout=20)
status_codes = []
client._http.hooks['response'].append(lambda response, *_, **__: status_codes.append(response.status_code))


def say(**line):
    print(json.dumps(line, ensure_ascii=False), flush=True)


def call(name, function, *arguments, **options):
    answer = function(*arguments, **options)
    shown = answer
    if hasattr(answer, 'content'):
        shown = {'bytes': len(answer.content), 'sha256': hashlib.sha256(answer.content).hexdigest()}
    say(call=name, answer=shown)
    return answer


def equal(left, right):
    if left != right:
        raise AssertionError('%r is not %r' % (left, right))


# A pixel, with bytes behind it that are no text in any encoding.
PICTURE = base64.b64decode('R0lGODlhAQABAIAAAAUEBAAAACwAAAAAAQABAAACAkQBADs=') + bytes(range(256)) * 64
MENU = {'button': [
    {'type': 'click', 'name': '今日歌曲', 'key': 'V1001_TODAY_MUSIC'},
    {'name': '菜单', 'sub_button': [{'type': 'view', 'name': '搜索', 'url': 'https://example.com/?a=1&b=%E4%BD%A0'}]},
]}


def every_call(turn):
    call('menu.create', client.menu.create, MENU)
    menu = call('menu.get', client.menu.get)
    equal(menu['menu']['button'][0]['name'], '今日歌曲')
    equal(menu['menu']['button'][1]['sub_button'][0]['url'], 'https://example.com/?a=1&b=%E4%BD%A0')
    call('menu.delete', client.menu.delete)
    # wechatpy turns 46003 into None: WeChat's own errors come through too.
    equal(call('menu.get (none)', client.menu.get), None)

    followers = call('user.get_followers', client.user.get_followers)
    openid = followers['data']['openid'][0]
    equal(call('user.get', client.user.get, openid)['openid'], openid)
    equal([user['openid'] for user in call('user.get_batch', client.user.get_batch, [openid])], [openid])

    sent = call('message.send_template', client.message.send_template, openid, 'TM00015',
                {'first': {'value': '恭喜 "你" & +1%'}}, url='https://example.com/')
    equal(sent['errcode'], 0)
    equal(call('message.send_text', client.message.send_text, openid, '你好 <a href="x">😀</a>')['errcode'], 0)

    code = call('qrcode.create', client.qrcode.create, {
        'expire_seconds': 1800, 'action_name': 'QR_SCENE', 'action_info': {'scene': {'scene_id': 123}},
    })
    equal(code['expire_seconds'], 1800)

    tag = call('tag.create', client.tag.create, '标签%d' % turn)
    equal([t['name'] for t in call('tag.get', client.tag.get) if t['id'] == tag['id']], ['标签%d' % turn])

    call('misc.short_url', client.misc.short_url, 'https://example.com/a?b=c&d=%20')
    call('misc.get_wechat_ips', client.misc.get_wechat_ips)
    call('jsapi.get_ticket', client.jsapi.get_ticket)

    uploaded = call('media.upload', client.media.upload, 'image', ('p.gif', io.BytesIO(PICTURE), 'image/gif'))
    downloaded = call('media.download', client.media.download, uploaded['media_id'])
    equal(downloaded.content, PICTURE)
    equal(downloaded.headers['Content-Type'], 'image/gif')
    count = call('material.get_count', client.material.get_count)
    kept = call('material.add', client.material.add, 'image', ('p.gif', io.BytesIO(PICTURE), 'image/gif'))
    equal(call('material.get_count', client.material.get_count)['image_count'], count['image_count'] + 1)
    equal(call('material.get', client.material.get, kept['media_id']).content, PICTURE)

    # API classes with a base of their own.
    summary = call('datacube.get_user_summary', client.datacube.get_user_summary, '2026-11-01', '2026-11-02')
    equal(summary[0]['ref_date'], '2026-11-01')
    call('wxa.check_text_security', client.wxa.check_text_security, '天气真好')
    session = call('wxa.code_to_session', client.wxa.code_to_session, 'good-mini-%d' % turn)
    equal(len(base64.b64decode(session['session_key'])), 16)


def login(turn):
    oauth = OAuth(APP_ID, KEY, 'https://example.com/back', scope='snsapi_userinfo')
    call('oauth.fetch_access_token', oauth.fetch_access_token, 'good-web-%d' % turn)
    equal(call('oauth.get_user_info', oauth.get_user_info)['openid'], oauth.open_id)
    equal(call('oauth.check_access_token', oauth.check_access_token), True)
    call('oauth.refresh_access_token', oauth.refresh_access_token, oauth.refresh_token)


def main():
    say(placeholder=client.access_token)
    every_call(1)
    login(1)
    say(pause='revoke')
    sys.stdin.readline()
    every_call(2)
    login(2)
    equal(set(status_codes), {200})
    equal(client.fetches, 1)
    say(placeholder=client.access_token)


main()
