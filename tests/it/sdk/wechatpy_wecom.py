"""wechatpy's client for 企业微信, as it comes from PyPI, against weigate.

    python wechatpy_wecom.py BASE_URL CORPID CLIENT_KEY

The same form as wechatpy_client.py: a JSON line for each call, and a pause in the middle. What is set differs from a
program that talks to WeCom itself in the same two things: the secret is the client key, and the base URL is ours.
"""

import io
import json
import sys

from wechatpy.enterprise import WeChatClient

BASE, CORPID, KEY = sys.argv[1:]


class Client(WeChatClient):
    API_BASE_URL = BASE + '/cgi-bin/'
    fetches = 0

    def fetch_access_token(self):
        self.fetches += 1
        return self._fetch_access_token(
            url=BASE + '/cgi-bin/gettoken',
            params={'corpid': self.corp_id, 'corpsecret': self.secret},
        )


client = Client(CORPID, KEY, timeout=20)


def say(**line):
    print(json.dumps(line, ensure_ascii=False), flush=True)


def call(name, function, *arguments, **options):
    answer = function(*arguments, **options)
    say(call=name, answer=len(answer.content) if hasattr(answer, 'content') else answer)
    return answer


def equal(left, right):
    if left != right:
        raise AssertionError('%r is not %r' % (left, right))


PICTURE = b'GIF89a' + bytes(range(256)) * 64


def every_call(turn):
    equal(call('user.get', client.user.get, 'zhangsan')['userid'], 'zhangsan')
    equal(len(call('user.list', client.user.list, 1, simple=True)), 3)
    equal(call('department.get', client.department.get)[0]['id'], 1)
    equal(call('agent.get', client.agent.get, 1000002)['agentid'], 1000002)
    sent = call('message.send_text', client.message.send_text, 1000002, ['zhangsan', 'lisi'], '你好 <a>😀</a>')
    equal((sent['errcode'], sent['invaliduser']), (0, ''))
    uploaded = call('media.upload', client.media.upload, 'image', ('p.gif', io.BytesIO(PICTURE), 'image/gif'))
    # Its media.download has the host written into it.
    got = call('media/get', client.get, 'media/get', params={'media_id': uploaded['media_id']})
    equal(got.content, PICTURE)
    call('jsapi.get_ticket', client.jsapi.get_ticket)
    call('jsapi.get_agent_ticket', client.jsapi.get_agent_ticket)
    equal(call('oauth.get_user_info', client.oauth.get_user_info, 'good-%d' % turn)['UserId'], 'good-%d' % turn)
    call('misc.get_wechat_ips', client.misc.get_wechat_ips)


say(placeholder=client.access_token)
every_call(1)
say(pause='revoke')
sys.stdin.readline()
every_call(2)
equal(client.fetches, 1)
say(placeholder=client.access_token)
