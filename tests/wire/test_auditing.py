"""What a client is refused stands in the audit log: who, what, and by which rule; what it may have does not."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path

import msgspec
import pytest

from appliance.cache.rules import AccessRules
from appliance.oci.digest import Digest
from appliance.settings import MatchSettings, RuleSettings
from tests.wire.line import IMAGE, LARGE, LAYER, Shop, blob, manifest
from tests.wire.test_login import ANN, BOB, CLOSED, OPEN, OUTSIDE, PING, WRONG, Door

APP = "docker.io/library/app"


def guarded(*rules: RuleSettings) -> Shop:
    shop = Shop()
    shop.cache.access.rules = AccessRules.of(msgspec.structs.replace(shop.settings, access=rules))
    return shop


DENIED = RuleSettings(deny=MatchSettings(networks=(ip_network("192.168.0.0/16"),)))


@pytest.mark.parametrize(
    ("path", "action", "what"),
    [
        (manifest(), "pull", "docker.io/app:latest"),
        (manifest(Digest.of(IMAGE)), "pull", f"docker.io/app@{Digest.of(IMAGE)}"),
        (manifest(Digest.of(IMAGE)).replace("sha256:", "sha256%3A"), "pull", f"docker.io/app@{Digest.of(IMAGE)}"),
        (blob(LAYER), "pull", "docker.io/app"),
        (blob(LARGE), "pull", "docker.io/app"),
        ("/v2/app/tags/list", "list", "docker.io/app"),
        (f"/v2/app/referrers/{Digest.of(IMAGE)}", "pull", "docker.io/app"),
        ("/v2/ghcr.io/team/app/manifests/1", "pull", "ghcr.io/team/app:1"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_what_a_rule_refuses_is_noted_with_the_rule(method: str, path: str, action: str, what: str) -> None:
    """Once for each request, held and prepared or not; the client itself is told of no rule."""
    shop = guarded()
    for _ in range(3):
        shop.ask(method, path)
    assert shop.cache.audit.noted == []
    shop.cache.access.rules = guarded(DENIED).cache.access.rules
    answer = shop.ask(method, path)
    assert answer.status == 404 and b"access[0]" not in answer.raw
    (noted,) = shop.cache.audit.noted
    assert noted.pop("why")
    assert noted == {
        "action": action,
        "what": what,
        "outcome": "refused",
        "means": "address",
        "address": "192.168.1.1",
        "rule": "access[0]: deny networks 192.168.0.0/16",
    }


def test_what_an_upstream_may_not_be_asked_for_is_noted() -> None:
    """C{deny} of an upstream is a decision as well."""
    shop = Shop(deny=("library/*",))
    assert shop.get(manifest()).status == 403
    (noted,) = shop.cache.audit.noted
    assert (noted["action"], noted["what"], noted["why"]) == (
        "pull",
        "docker.io/app:latest",
        f"{APP} may not be pulled through here (allow, deny)",
    )


def test_what_is_only_not_there_is_no_refusal() -> None:
    """Nor is what no registry would answer: nobody decided that this client may not have it."""
    shop = Shop()
    for path in ("/v2/", "/v2/app/manifests/none", "/v2/app/manifests/-", "/v2/nothing", "/elsewhere", blob(b"none")):
        shop.get(path)
    shop.ask("DELETE", manifest())
    assert shop.cache.audit.noted == []


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_who_has_to_log_in_and_did_not_is_noted(tmp_path: Path, method: str) -> None:
    """With what was asked for, as where a rule decides; not so the question that each pull begins with."""
    door = Door(tmp_path, "required")
    elsewhere = "/v2/nowhere.example/a/manifests/1?ns=nowhere.example"
    for path in (PING, OPEN, CLOSED, "/v2/ghcr.io/team/app/tags/list", blob(LAYER), elsewhere):
        assert door.ask(path, method=method).status == 401
    told = [(each["action"], each["what"], each["outcome"]) for each in door.shop.cache.audit.noted]
    assert told == [
        ("pull", "docker.io/app:latest", "refused"),
        ("pull", "ghcr.io/team/app:latest", "refused"),
        ("list", "ghcr.io/team/app", "refused"),
        ("pull", "docker.io/app", "refused"),
        ("pull", "nowhere.example/a:1", "refused"),
    ]
    assert {each["address"] for each in door.shop.cache.audit.noted} == {OUTSIDE}


def test_a_refusal_names_who_was_logged_in(tmp_path: Path) -> None:
    """And by which means; a wrong password is noted once, where it is checked."""
    door = Door(tmp_path, "offered")
    for _ in range(2):
        assert door.ask(CLOSED, BOB).status == 404
    assert [(each["user"], each["means"]) for each in door.shop.cache.audit.noted] == [("bob", "basic")] * 2
    assert all(each["rule"].startswith("access[1]: deny") for each in door.shop.cache.audit.noted)
    assert door.ask(CLOSED, WRONG).status == 401 and door.ask(CLOSED, ANN).status == 200
    assert len(door.shop.cache.audit.noted) == 2
