"""Exports over the API: planned, kept for a while, sent to the byte that was promised."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.web.client import ResponseFailed

from appliance.admin import exports as module
from appliance.admin.exports import KEPT_FOR
from appliance.bundle.minisign import SecretKey, verify
from appliance.oci.digest import Digest
from tests.doubles.appliance import HUB, NGINX, Appliance
from tests.doubles.deferreds import result
from tests.doubles.images import image, multi_arch
from tests.doubles.pullthrough import NOW
from tests.rooms.admin.exporting import blobs, carried, entries, planned, volume

# -- in one request --------------------------------------------------------------------------------------------------


def test_one_request_is_enough_for_one_file(site: Appliance) -> None:
    """curl -OJ '...?ref=nginx&platform=linux/arm64' is an export."""
    content = multi_arch()
    site.hold(content, "1")
    site.hold(image("other"), "1", name="library/redis")
    answer = site.ask("GET", "exports?ref=nginx&platform=linux/arm64&title=t")
    assert str(answer.header("Content-Disposition")).startswith('attachment; filename="t-')
    assert carried(answer) == blobs(content) - blobs(content.children[0])
    assert carried(site.ask("GET", "exports?all=1")) == blobs(content, image("other"))


def test_one_request_takes_an_age_with_a_unit(site: Appliance) -> None:
    """As the command does."""
    content = image()
    site.hold(content, "1")
    site.usage.note(HUB, NGINX, "1")
    site.clock.advance(3600)
    assert carried(site.ask("GET", "exports?since=2h")) == blobs(content)
    code, word, message = site.error("GET", "exports?since=2")
    assert (code, word) == (400, "bad-request") and message.startswith("since=2 is no duration")


def test_one_request_never_leaves_anything_out_in_silence(site: Appliance) -> None:
    """A file that is sent cannot say what is not in it: it is refused, with the cure, which works."""
    torn = image("torn")
    site.hold(torn, "1", without=(torn.layers[0],))
    answer = site.ask("GET", "exports?ref=nginx")
    assert (answer.code, answer.json["error"]["code"]) == (409, "bundle-incomplete")
    assert answer.json["error"]["missing"] == [torn.layers[0].digest]
    assert "with complete" in answer.json["error"]["message"] and "partial=1" in answer.json["error"]["message"]
    assert site.error("GET", "exports?ref=redis")[:2] == (409, "bundle-incomplete")
    assert carried(site.ask("GET", "exports?ref=nginx&partial=1")) == blobs(torn) - {torn.layers[0].digest}
    site.offer(torn, "1")
    assert carried(volume(site, planned(site, refs=["nginx"], complete=True))) == blobs(torn)


def test_a_get_fetches_nothing(site: Appliance) -> None:
    """What has an effect is a POST: no link in a page makes an appliance download."""
    torn = image("torn")
    site.hold(torn, "1", without=(torn.layers[0],))
    site.offer(torn, "1")
    code, word, message = site.error("GET", "exports?ref=nginx&complete=1")
    assert (code, word) == (400, "bad-request") and "POST" in message
    assert site.hub.asked() == []


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("", "nothing to export was named"),
        ("?refs=nginx", "refs: no such parameter; there are all, complete"),
        ("?all=maybe", "all=maybe: write 1 or 0"),
        ("?all=1&all=1", "all was given 2 times"),
        ("?ref=%ff", "ref: is not UTF-8"),
        ("?ref=a%20b", "is no reference"),
    ],
)
def test_a_question_that_makes_no_sense_is_answered_with_why(site: Appliance, query: str, reason: str) -> None:
    """A misspelt parameter would change what is exported."""
    code, _, message = site.error("GET", f"exports{query}")
    assert 400 <= code < 500 and reason in message


# -- signed ----------------------------------------------------------------------------------------------------------


def test_a_signature_of_the_document_goes_into_every_volume(site: Appliance) -> None:
    """The key never leaves the operator's machine: only what it made is sent."""
    site.hold(image(sizes=(60_000, 50_000)), "1")
    plan = planned(site, all=True, volumeSize=80_000)
    key = SecretKey.generate()
    document = site.ask("GET", f"exports/{plan['id']}/document").body
    signature = key.sign(document, "mine")
    answer = site.ask(
        "PUT", f"exports/{plan['id']}/signature", data=signature.encode(), headers={"Content-Type": "text/plain"}
    )
    assert (answer.code, answer.json["signed"], answer.json["id"]) == (200, True, plan["id"])
    for each in answer.json["volumes"]:
        found = volume(site, plan, each["n"])
        assert len(found.body) == each["size"]
        held = entries(found)
        assert verify(held["pullcache/bundle.json"], held["pullcache/bundle.json.minisig"].decode(), [key.public])


@pytest.mark.parametrize(
    ("data", "content_type", "code"),
    [
        (b"x", "application/json", 415),
        (b"x", "", 415),
        (b"", "text/plain", 400),
        (b"x" * 5000, "text/plain", 400),
        (b"\xff", "text/plain", 400),
    ],
)
def test_what_is_no_signature_is_refused(site: Appliance, data: bytes, content_type: str, code: int) -> None:
    """And the export stays unsigned."""
    site.hold(image(), "1")
    plan = planned(site, all=True)
    path = f"exports/{plan['id']}/signature"
    assert site.error("PUT", path, data=data, headers={"Content-Type": content_type})[0] == code
    assert site.get(f"exports/{plan['id']}")["signed"] is False


# -- kept ------------------------------------------------------------------------------------------------------------


def test_an_export_is_kept_for_an_hour_after_it_was_asked_for(site: Appliance) -> None:
    """Long volumes can be fetched one after the other; what is not fetched is forgotten."""
    site.hold(image(), "1")
    plan = planned(site, all=True)
    for _ in range(3):
        site.clock.advance(KEPT_FOR - 1)
        assert site.get(f"exports/{plan['id']}")["id"] == plan["id"]
    site.clock.advance(KEPT_FOR)
    code, word, message = site.error("GET", f"exports/{plan['id']}")
    assert (code, word) == (404, "not-held") and "plan it again" in message


def test_only_so_many_exports_are_kept(site: Appliance, monkeypatch: pytest.MonkeyPatch) -> None:
    """The longest unasked goes; planning cannot fill the memory."""
    monkeypatch.setattr(module, "KEPT", 2)
    site.hold(image(), "1")
    first, second = (planned(site, all=True, title=title) for title in "ab")
    site.get(f"exports/{first['id']}")
    third = planned(site, all=True, title="c")
    assert site.error("GET", f"exports/{second['id']}")[0] == 404
    for kept in (first, third):
        assert volume(site, kept).code == 200


def test_an_export_can_be_sent_to_several_at_once_and_shown_meanwhile(site: Appliance) -> None:
    """Nothing of it is used up."""
    site.hold(image(), "1")
    plan = planned(site, all=True)
    asked = [site.begin("GET", f"exports/{plan['id']}/volumes/1") for _ in range(3)]
    site.treq.flush()
    bodies = [site.treq.content(result(each)) for each in asked]
    site.treq.flush()
    assert len({result(body) for body in bodies}) == 1
    assert not site.services.busy


# -- bodies ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/x-www-form-urlencoded", "application/jsonx"])
def test_only_json_is_taken(site: Appliance, content_type: str | None) -> None:
    """A page in the operator's browser cannot send that without being asked first."""
    headers = {} if content_type is None else {"Content-Type": content_type}
    assert site.error("POST", "exports", data=b'{"all": true}', headers=headers)[:2] == (415, "unsupported-media-type")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "truncated"),
        (b"{", "truncated"),
        (b"[]", "Expected `object`"),
        (b'{"alll": true}', "unknown field `alll`"),
        (b'{"refs": "nginx"}', "Expected `array`"),
        (b'{"volumeSize": "4GB"}', "Expected `int | null`"),
        (b'{"labels": {"a": 1}}', "Expected `str`"),
        (b"[" * 100_000, "body is not understood"),
        (b'{"have": {"blobs": [{"digest": "md5:1"}]}, "all": true}', "cannot be read"),
        (
            b'{"want": {"wants": [{"upstream": "u", "repository": "../x", "reference": "1"}]}}',
            "the wants name what cannot be wanted",
        ),
        (
            b'{"want": {"wants": [{"upstream": "u", "repository": "x", "reference": "sha256:1"}]}}',
            "the wants name what cannot be wanted",
        ),
    ],
)
def test_a_body_that_is_not_understood_is_refused_with_why(site: Appliance, data: bytes, reason: str) -> None:
    """With the field at fault."""
    headers = {"Content-Type": "application/json; charset=utf-8"}
    code, _, message = site.error("POST", "exports", data=data, headers=headers)
    assert code in (400, 422) and reason in message


def test_a_title_is_part_of_the_name_and_of_the_document(site: Appliance) -> None:
    """So that people can tell bundles apart; labels travel too."""
    site.hold(image(), "1")
    plan = planned(site, all=True, title="a b", labels={"k": "v"})
    document = site.get(f"exports/{plan['id']}/document")
    assert (document["title"], document["labels"], document["site"]) == ("a b", {"k": "v"}, "berth-3")
    assert plan["volumes"][0]["file"].startswith("a-b-")
    assert plan["expires"] == "2027-01-15T09:00:00Z" and NOW == 1_800_000_000


# -- what a disk lost ------------------------------------------------------------------------------------------------


def damaged(site: Appliance, size: int) -> Digest:
    """An image whose layer has a flipped byte, which its length does not tell."""
    content = image("damaged", (size,))
    site.hold(content, "1")
    layer = Digest.parse(content.layers[0].digest)
    data = bytearray(site.store._blobs[layer])
    data[-1] ^= 1
    site.store._blobs[layer] = bytes(data)
    return layer


def test_a_damaged_blob_is_never_sent_as_a_whole_file(site: Appliance, logged_errors: list[Any]) -> None:
    """Less comes than was promised, so that no bundle with wrong bytes is carried away; and it is mended."""
    layer = damaged(site, 5000)
    plan = planned(site, all=True)
    with pytest.raises(ResponseFailed):
        volume(site, plan)
    logged_errors.clear()
    assert [str(each.digest) for each in result(site.store.damaged())] == [str(layer)]
    [left_out] = planned(site, all=True)["leftOut"]
    assert [each["digest"] for each in left_out["missing"]] == [str(layer)]


def test_an_export_in_parts_of_a_damaged_blob_is_not_planned(site: Appliance) -> None:
    """Its parts are hashed then, and it with them."""
    layer = damaged(site, 300_000)
    code, _, message = site.error("POST", "exports", {"all": True, "volumeSize": 110_000})
    assert code == 422 and message.startswith(f"{layer} is damaged on disk; run pullcache scrub"), message
