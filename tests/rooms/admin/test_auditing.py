"""What operators do, or may not, stands in the audit log: who, by which means, what, and what became of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs
from twisted.internet.address import UNIXAddress
from twisted.internet.defer import Deferred

from appliance.settings import AdminSettings, RetentionSettings
from tests.doubles.appliance import Appliance
from tests.doubles.deferreds import result
from tests.doubles.images import image
from tests.rooms.admin.test_operators import TOKENS, AtSocket, Door, bearer


@pytest.fixture
def site(tmp_path: Path) -> Appliance:
    """Nothing is asked for on TCP; an image is held."""
    site = Appliance()
    site.hold(image(), "1")
    return site


def noted(site: Appliance) -> list[tuple[str, str, str]]:
    """Action, what, and outcome."""
    return [(each["action"], each["what"], each["outcome"]) for each in site.audit.noted]


@pytest.mark.parametrize(
    ("method", "path", "document", "expected"),
    [
        ("POST", "pins", {"reference": "nginx:1"}, ("pin", "nginx:1", "done")),
        ("POST", "pins", {"reference": "nginx:1", "digest": True}, ("pin", "nginx:1 --digest", "done")),
        ("POST", "pins", {"reference": "nginx:2"}, ("pin", "nginx:2", "refused")),
        ("POST", "pins", {"colour": "red"}, ("pin", "", "refused")),
        ("DELETE", "pins/nginx:1", None, ("unpin", "nginx:1", "done")),
        ("DELETE", "images/docker.io/library/nginx:1", None, ("remove", "docker.io/library/nginx:1", "done")),
        ("DELETE", "images/nginx:2", None, ("remove", "nginx:2", "refused")),
        ("POST", "scrubs", {"rate": 10**12}, ("scrub", "", "done")),
        ("POST", "exports", {"refs": ["nginx:1"]}, ("export", "nginx:1", "done")),
        ("POST", "exports", {"refs": ["nginx:2"]}, ("export", "nginx:2", "done")),
        ("GET", "exports?ref=a:1&ref=a:2&since=1h", None, ("export", "a:1 a:2 --since 3600s", "refused")),
        ("POST", "imports", {"files": ["/no/such.tar"]}, ("import", "/no/such.tar", "refused")),
        ("POST", "imports", {"files": ["such.tar"]}, ("import", "such.tar", "refused")),
    ],
)
def test_what_an_operator_orders_is_noted_with_what_became_of_it(
    site: Appliance, method: str, path: str, document: Any, expected: tuple[str, str, str]
) -> None:
    """One line each, with the reason where it was not done, be it said in lines or at once."""
    site.ask(method, path, document)
    assert noted(site) == [expected]
    assert ("why" in site.audit.noted[0]) == (expected[2] != "done")
    assert (site.audit.noted[0]["means"], site.audit.noted[0]["address"]) == ("address", "127.0.0.1")


def test_the_answer_comes_when_its_line_is_durable(site: Appliance) -> None:
    """Who was told that an image is gone finds that in the audit log, also after a power cut."""
    site.audit.flushed = Deferred()
    answers: list[Any] = []
    site.begin("DELETE", "images/nginx:1").addBoth(answers.append)
    site.treq.flush()
    assert not answers and noted(site) == [("remove", "nginx:1", "done")]
    site.audit.flushed.callback(None)
    site.treq.flush()
    assert [answer.code for answer in answers] == [200]


@pytest.mark.parametrize(
    ("method", "path", "document"),
    [
        ("GET", "status", None),
        ("GET", "images", None),
        ("GET", "images/nginx:1", None),
        ("GET", "nothing", None),
        ("DELETE", "images/nginx:1?dry_run=1", None),
        ("POST", "imports", {"files": ["/no/such.tar"], "dryRun": True}),
    ],
)
def test_who_only_looks_is_not_noted(site: Appliance, method: str, path: str, document: Any) -> None:
    """Nor who asks what would be done."""
    site.ask(method, path, document)
    assert noted(site) == []


def test_what_a_collection_removed_is_noted(site: Appliance) -> None:
    """Whether it was ordered or ran by itself: retention is a reason for an image to be gone."""
    site.services.collection.is_ready = True
    site.settings = structs.replace(site.settings, retention=RetentionSettings(keep_for=86400.0))
    site.clock.advance(10 * 86400)
    assert site.ask("POST", "collections", {"dryRun": True}).code == 200
    assert noted(site) == []
    freed = site.store.total()
    result(site.services.collection.run())
    (what,) = noted(site)
    assert what == ("collect", f"1 images, 4 blobs, {freed} bytes", "done")
    assert site.audit.noted[0]["why"].startswith("docker.io/library/nginx:1: ")
    assert site.ask("POST", "collections", {"dryRun": False}).code == 200
    assert noted(site)[1:] == [("collect", "", "done")]


@pytest.fixture
def door(tmp_path: Path) -> Door:
    """Operators show a token."""
    file = tmp_path / "tokens"
    file.write_text("".join(f"{role} {token}\n" for role, token in TOKENS.items()))
    site = Appliance(admin=AdminSettings(token_file=file))
    site.hold(image(), "1")
    return Door(site)


def test_an_operator_is_named_by_what_was_shown(door: Door) -> None:
    """A token by its place in the file, and never by itself; a user of the machine by the socket."""
    assert door.ask("DELETE /api/v1/pins/nginx:1", bearer("operate")).code == 200
    Door(door.site, UNIXAddress(None), AtSocket).ask("DELETE /api/v1/pins/nginx:1")
    token, socket = door.site.audit.noted
    assert (token["user"], token["means"], token["address"]) == ("token 2", "token", "192.0.2.7")
    assert (socket["means"], "address" in socket) == ("socket", False)


def test_who_may_not_is_noted(door: Door) -> None:
    """With what was asked for: by nobody that is known, or by somebody whose role is too low."""
    assert door.ask("DELETE /api/v1/images/nginx:1").code == 401
    assert door.ask("GET /api/v1/status", "Authorization: Bearer stolen-0123456789").code == 401
    assert door.ask("DELETE /api/v1/images/nginx:1", bearer("operate")).code == 403
    assert door.ask("POST /api/v1/pins", bearer("read"), body="{}").code == 403
    assert [(each["action"], each["what"], each.get("user")) for each in door.site.audit.noted] == [
        ("login", "DELETE /api/v1/images/nginx:1", None),
        ("login", "GET /api/v1/status", None),
        ("remove", "DELETE /api/v1/images/nginx:1", "token 2"),
        ("pin", "POST /api/v1/pins", "token 1"),
    ]
    assert {(each["outcome"], each["address"]) for each in door.site.audit.noted} == {("refused", "192.0.2.7")}


def test_a_browsers_login_is_noted(door: Door) -> None:
    """When it works, when it does not, and what is done by it."""
    door.log_in("wrong-0123456789abcdef")
    cookie = door.log_in(TOKENS["manage"]).session
    door.ask("DELETE /api/v1/pins/nginx:1", f"Cookie: {cookie}")
    door.ask("DELETE /api/v1/pins/nginx:1", f"Cookie: {cookie}", f"X-CSRF-Token: {door.csrf(cookie)}")
    door.ask("DELETE /api/v1/session", f"Cookie: {cookie}", f"X-CSRF-Token: {door.csrf(cookie)}")
    assert noted(door.site) == [
        ("login", "", "refused"),
        ("login", "token 3", "done"),
        ("unpin", "DELETE /api/v1/pins/nginx:1", "refused"),
        ("unpin", "nginx:1", "done"),
        ("logout", "", "done"),
    ]
    text = json.dumps(door.site.audit.noted)
    assert not any(secret in text for secret in (*TOKENS.values(), "wrong-", cookie.partition("=")[2]))


def test_wrong_logins_do_not_make_the_log_durable_each(door: Door) -> None:
    """Otherwise the bounds of what is refused would count for nothing where anybody may ask."""
    door.site.audit.flushed = Deferred()
    answer = door.ask("POST /login", body='{"token":"wrong"}')
    assert (answer.code, answer.fields["www-authenticate"]) == (401, 'Bearer realm="pullcache", error="invalid_token"')
    assert noted(door.site) == [("login", "", "refused")]
