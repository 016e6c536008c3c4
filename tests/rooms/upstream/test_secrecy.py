"""Secrets are in no message, log line or representation."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote_plus

import pytest
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.python.failure import Failure
from twisted.web.http_headers import Headers

from appliance import errors
from appliance.settings import UpstreamSettings
from appliance.upstream.answer import Answer, Request
from appliance.upstream.credentials.configured import credentials_for
from appliance.upstream.http.auth import Presented
from appliance.upstream.url import Url
from tests.doubles.deferreds import failing, result
from tests.rooms.upstream.guarded import (
    identity,
    token,
    write,
)
from tests.rooms.upstream.net import REGISTRY, Asked, Net, Reply, arguments, upstream

CANARY = "c4n4ry-h0-h0"


def repeating(asked: Asked, status: int = 500, **fields: str) -> Reply:
    """A refusal that repeats whatever it was sent, as Artifactory repeats tokens it does not know."""
    said = f"{asked.one('authorization') or ''} {unquote_plus(asked.body.decode())}"
    if said.startswith("Basic "):
        said += base64.b64decode(said.split()[1]).decode()
    error = json.dumps({"errors": [{"code": "DENIED", "message": f"bad token: {said}"}]})
    return Reply(status, {name.replace("_", "-"): value for name, value in fields.items()}, error.encode())


@pytest.mark.parametrize("way", ["password_file", "token_file", "auth_file"])
@pytest.mark.parametrize(
    "scheme",
    [f'Bearer realm="{REGISTRY}/token",service="s"', 'Basic realm="x"', 'Bearer realm="https://evil.example/"'],
)
@pytest.mark.parametrize(
    "reply", [Reply(401), Reply(403), Reply(500), Reply(200, {}, b"<"), token(), token(CANARY), repeating, None]
)
@pytest.mark.parametrize("refused", [401, 403, 500])
def test_secrets_are_not_shown(
    tmp_path: Path, way: str, scheme: str, reply: Reply | Callable[[Asked], Reply] | None, refused: int
) -> None:
    """Whatever the registry and its token server answer: no error, repr or log line holds the secret."""
    net = Net()

    def answer(asked: Asked) -> Reply | None:
        if "/token" not in asked.target:
            status = 401 if asked.one("authorization") is None else refused
            return repeating(asked, status, WWW_Authenticate=scheme)
        return reply(asked) if callable(reply) else reply

    net.servers[REGISTRY] = answer
    events: list[LogEvent] = []
    observer: ILogObserver = events.append  # type: ignore[assignment]
    globalLogPublisher.addObserver(observer)
    try:
        path = identity(tmp_path, CANARY) if way == "auth_file" else write(tmp_path / "file", CANARY)
        files = {way: path, "username": "user"} if way == "password_file" else {way: path}
        named = UpstreamSettings(name="u", urls=(REGISTRY,), **files)
        credentials = credentials_for(named, Url.parse(REGISTRY), arguments(net.clock))
        assert credentials is not None
        secret = result(credentials.current())
        asking = upstream(net, credentials=credentials)
        question = asking.manifest("a", "t")
        net.settle()
        net.clock.advance(100)
        fault = failing(question)
        shown = [str(fault), repr(fault), Failure(fault).getTraceback(), repr(secret), repr(credentials), repr(asking)]
        shown += [repr(vars(credentials)), repr(Presented(b"Basic " + CANARY.encode(), secret=secret)), secret.identity]
    finally:
        globalLogPublisher.removeObserver(observer)
    assert isinstance(fault, errors.UpstreamError)
    for text in (*shown, *map(repr, events)):
        assert CANARY not in text
        assert base64.b64encode(CANARY.encode()).decode()[:12] not in text


def test_a_signed_location_is_not_shown() -> None:
    """The address of a blob in a store is as good as the blob, and for an hour."""
    headers = Headers({"Location": [f"https://store.example/blob?X-Amz-Signature={CANARY}"]})
    url = Url.parse(f"https://store.example/blob?X-Amz-Signature={CANARY}")
    request = Request("GET", url, danger_authorization=CANARY.encode(), danger_form=CANARY.encode())
    unread: Any = None
    assert CANARY not in repr(Answer("u", request, 307, headers, unread, redirected=False))
