"""Exports over the API: planned, kept for a while, sent to the byte that was promised."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import pytest
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from appliance.admin import exports as module
from appliance.admin.exports import KEPT_FOR
from appliance.bundle.minisign import SecretKey, verify
from appliance.errors import UpstreamUnavailable
from appliance.oci.digest import Digest
from tests.doubles.appliance import HUB, NGINX, Answer, Appliance
from tests.doubles.deferreds import failing, result
from tests.doubles.images import Content, image, multi_arch
from tests.doubles.pullthrough import NOW


@pytest.fixture
def site() -> Appliance:
    return Appliance()


def entries(answer: Answer) -> dict[str, bytes]:
    assert (answer.code, answer.header("Content-Type")) == (200, "application/x-tar"), answer.body[:300]
    assert answer.length == len(answer.body)
    with tarfile.open(fileobj=io.BytesIO(answer.body), mode="r:") as archive:
        return {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]


def blobs(*contents: Any) -> set[str]:
    parts = [part for content in contents for part in content.walk()]
    return {blob.digest for part in parts for blob in (part.manifest, *part.blobs)}


def carried(answer: Answer) -> set[str]:
    return {f"sha256:{name.rpartition('/')[2]}" for name in entries(answer) if name.startswith("blobs/")}


def planned(site: Appliance, **order: Any) -> Any:
    answer = site.ask("POST", "exports", order)
    assert answer.code == 201, answer.body
    return answer.json


def volume(site: Appliance, plan: Any, n: int = 1) -> Answer:
    return site.ask("GET", f"exports/{quote(plan['id'], safe='')}/volumes/{n}")


# -- planned --------------------------------------------------------------------------------------------------------


def test_a_planned_export_comes_as_it_was_promised(site: Appliance) -> None:
    """Name and size are known before the first byte is asked for, and every digest is right."""
    content = image()
    site.hold(content, "1.27")
    plan = planned(site, refs=["nginx:1.27"], title="for berth 4")
    assert (plan["kind"], plan["title"], plan["signed"], plan["leftOut"]) == ("full", "for berth 4", False, [])
    answer = volume(site, plan)
    assert [plan["volumes"][0][key] for key in ("n", "size")] == [1, len(answer.body)]
    assert answer.header("Content-Disposition") == f'attachment; filename="{plan["volumes"][0]["file"]}"'
    assert carried(answer) == blobs(content)
    for name, data in entries(answer).items():
        assert not name.startswith("blobs/") or str(Digest.of(data)).endswith(name.rpartition("/")[2])


def test_head_tells_the_size_without_the_bytes(site: Appliance) -> None:
    """A client can look whether the stick is large enough."""
    site.hold(image(), "1")
    plan = planned(site, all=True)
    answer = site.ask("HEAD", f"exports/{plan['id']}/volumes/1")
    assert (answer.code, answer.body) == (200, b"")
    assert answer.header("Content-Length") == str(plan["volumes"][0]["size"])


def test_each_volume_is_sent_by_its_number(site: Appliance) -> None:
    """Each is a tar of its own, of the size that was planned; together they hold everything."""
    content = image(sizes=(60_000, 50_000))
    site.hold(content, "1")
    plan = planned(site, all=True, volumeSize=80_000)
    assert len(plan["volumes"]) > 1
    found: set[str] = set()
    for each in plan["volumes"]:
        answer = volume(site, plan, each["n"])
        assert len(answer.body) == each["size"] <= 80_000
        found |= {name for name in entries(answer) if name.startswith("blobs/")}
    assert found >= {f"blobs/sha256/{content.manifest.digest[7:]}"}
    assert site.error("GET", f"exports/{plan['id']}/volumes/{len(plan['volumes']) + 1}")[:2] == (404, "not-held")


@pytest.mark.parametrize("n", ["0", "2", "x", "-1", "1.5", "\N{SUPERSCRIPT ONE}", "99999999999"])
def test_a_volume_that_there_is_not(site: Appliance, n: str) -> None:
    """Whatever stands in its place."""
    site.hold(image(), "1")
    plan = planned(site, all=True)
    code, word, message = site.error("GET", f"exports/{plan['id']}/volumes/{quote(n)}")
    assert (code, word) == (404, "not-held") and "volumes 1 to 1" in message


def test_the_same_export_is_the_same_bytes(site: Appliance) -> None:
    """Planned twice, fetched twice: a broken download can be compared with a good one."""
    site.hold(multi_arch(), "1")
    first, again = planned(site, refs=["nginx"]), planned(site, refs=["nginx"])
    assert first["id"] == again["id"]
    assert volume(site, first).body == volume(site, again).body


def test_the_other_side_s_inventory_leaves_only_the_difference(site: Appliance) -> None:
    """What it holds is required and not carried."""
    old, new = image("old"), image("new")
    there = Appliance(offline=True)
    there.hold(old, "1")
    site.hold(old, "1")
    site.hold(new, "2")
    inventory = there.get("inventory")
    plan = planned(site, refs=["nginx"], have=inventory)
    assert plan["kind"] == "increment"
    assert carried(volume(site, plan)) == blobs(new) - blobs(old)
    document = site.get(f"exports/{plan['id']}/document")
    assert {each["digest"] for each in document["requires"]} == blobs(old)
    assert (document["base"]["from"], document["base"]["site"]) == ("inventory", "berth-3")


def test_earlier_bundles_stand_in_for_an_inventory(site: Appliance) -> None:
    """Where nothing comes back, what was sent is what is there."""
    old, new = image("old"), image("new")
    site.hold(old, "1")
    first = planned(site, refs=["nginx"])
    site.hold(new, "2")
    earlier = {"id": first["id"], "blobs": sorted(blobs(old))}
    plan = planned(site, refs=["nginx"], base=[earlier])
    assert carried(volume(site, plan)) == blobs(new) - blobs(old)
    inventory = {"blobs": [], "manifests": []}
    assert site.error("POST", "exports", {"all": True, "base": [earlier], "have": inventory})[0] == 422


def test_the_other_side_s_wants_are_answered(site: Appliance) -> None:
    """A wants document is taken as it came, and the image a client asked for there is in the bundle."""
    wanted, unwanted = image("wanted"), image("unwanted")
    there = Appliance(offline=True)
    failing(there.through.manifest(there.at(HUB, NGINX), "1"))
    failing(there.through.manifest(there.at(HUB, NGINX), "lost"))
    site.hold(wanted, "1")
    site.hold(unwanted, "2")
    plan = planned(site, want=there.get("wants"))
    assert carried(volume(site, plan)) == blobs(wanted)
    assert plan["unanswered"] == ["docker.io/library/nginx:lost"]


def wants(*references: str, platform: str | None = None, name: str = NGINX) -> Any:
    """The wants of the other side."""
    return {
        "wants": [
            {"name": f"{HUB}/{name}:x", "upstream": HUB, "repository": name, "reference": each, "platform": platform}
            for each in references
        ]
    }


def test_what_the_other_side_wants_is_fetched_by_its_name(site: Appliance) -> None:
    """No client pulled it here: its manifests and blobs come through the cache, each once, and go into the bundle."""
    content, unasked = multi_arch("wanted"), image("unasked")
    site.offer(content, "2")
    site.hold(unasked, "old", without=(unasked.layers[0],))
    site.offer(unasked, "old")
    plan = planned(site, want=wants("2"))
    assert (plan["leftOut"], plan["unanswered"], plan["notes"]) == ([], [], [])
    assert carried(volume(site, plan)) == blobs(content)
    fetched = [call.subject for call in site.hub.asked("blob")]
    assert len(fetched) == len(set(fetched)) and unasked.layers[0].digest not in map(str, fetched)
    assert (len(site.usage), len(site.wants)) == (0, 0)


def test_the_platform_that_is_wanted_is_fetched_to_the_one_that_was_pulled(site: Appliance) -> None:
    """Its client over there runs on another machine than those here."""
    content = multi_arch("wanted")
    amd, arm = content.children
    site.hold(content, "2", without=(arm.manifest, *arm.blobs))
    site.offer(content, "2")
    assert carried(volume(site, planned(site, want=wants("2")))) == blobs(content) - blobs(arm) | (
        blobs(amd) & blobs(arm)
    )
    assert site.hub.asked("blob") == []
    assert carried(volume(site, planned(site, want=wants("2", platform="linux/arm64")))) == blobs(content)


def test_a_platform_that_cannot_be_fetched_is_named_and_the_others_are_taken(site: Appliance) -> None:
    """The bundle is as good as it can be, and who makes it knows what it lacks and why."""
    content = multi_arch("wanted")
    arm = content.children[1]
    site.hold(content, "2", without=(arm.manifest, *arm.blobs))
    site.hub.fail(UpstreamUnavailable(HUB, "no route"))
    plan = planned(site, want=wants("2", platform="linux/arm64"))
    [lack] = plan["leftOut"]
    assert lack["why"].startswith("linux/arm64, which the other side wants")
    assert any("no route" in note for note in plan["notes"])
    assert carried(volume(site, plan)) >= blobs(content.children[0])


def test_a_platform_that_is_wanted_by_its_digest_is_fetched(site: Appliance) -> None:
    """The other side has the index and lacks the child, and so does this one."""
    content = multi_arch("wanted")
    arm = content.children[1]
    site.hold(content, "2", without=(arm.manifest, *arm.blobs))
    site.offer(content, "2")
    plan = planned(site, want=wants(arm.digest))
    assert plan["unanswered"] == []
    assert carried(volume(site, plan)) >= blobs(arm)


@pytest.mark.parametrize("named_by", ["tag", "digest"])
def test_a_blob_that_is_wanted_comes_with_the_image_that_is_wanted_beside_it(site: Appliance, named_by: str) -> None:
    """Both were asked for there; no manifest has the blob's digest, and it is fetched as a blob all the same."""
    content = image("wanted")
    site.offer(content, "1")
    image_wanted = "1" if named_by == "tag" else content.digest
    plan = planned(site, want=wants(content.layers[0].digest, image_wanted, content.blobs[0].digest))
    assert (plan["leftOut"], plan["unanswered"]) == ([], [])
    assert carried(volume(site, plan)) == blobs(content)


def test_what_is_wanted_and_cannot_be_fetched_is_listed_with_the_reason(site: Appliance) -> None:
    """Each with what its upstream said; what can be had is exported, and nothing is asked for twice."""
    content = image("wanted")
    site.offer(content, "1")
    gone = "sha256:" + "0" * 64
    plan = planned(site, want={"wants": [*wants("1", "lost", gone)["wants"], *wants("1", name="no/such")["wants"]]})
    assert carried(volume(site, plan)) == blobs(content)
    lost = ["docker.io/library/nginx:lost", f"docker.io/library/nginx@{gone}", "docker.io/no/such:1"]
    assert plan["unanswered"] == lost
    for name in lost:
        assert sum(note.startswith(f"{name}: ") for note in plan["notes"]) == 1
    asked = [(call.verb, call.repository, call.subject) for call in site.hub.asked()]
    assert len(asked) == len(set(asked))
    assert len(site.wants) == 0, "what another side wants is no want of this one"


def test_an_appliance_that_is_offline_says_what_it_lacks() -> None:
    """No upstream is asked, and each want is named."""
    site = Appliance(offline=True)
    held = image("held")
    site.hold(held, "1")
    plan = planned(site, want=wants("1", "2"))
    assert carried(volume(site, plan)) == blobs(held)
    assert plan["unanswered"] == ["docker.io/library/nginx:2"]
    assert any("docker.io/library/nginx:2" in note and "offline" in note for note in plan["notes"])
    assert (site.hub.asked(), len(site.wants)) == ([], 0)


def test_too_many_wants_are_refused(site: Appliance) -> None:
    """More than any appliance writes down."""
    assert "split them" in site.error("POST", "exports", {"want": wants(*map(str, range(10_001)))})[2]


def test_progress_is_told_to_who_accepts_lines(site: Appliance) -> None:
    """Bytes fetched of bytes known to be lacking; the last line is what a client without lines is answered."""
    content = image("wanted", sizes=(60_000, 50_000))
    site.offer(content, "1")
    headers = {"Content-Type": "application/json", "Accept": "application/x-ndjson"}
    answer = site.ask("POST", "exports", {"want": wants("1")}, headers=headers)
    assert (answer.code, answer.header("Content-Type")) == (200, "application/x-ndjson")
    *progress, last = answer.lines
    assert progress and {line["stage"] for line in progress} == {"fetching"}
    assert last["export"] == planned(site, want=wants("1"))
    refused = site.ask("POST", "exports", {}, headers=headers)
    assert refused.lines[-1]["error"]["code"] == "bundle"


def test_a_client_that_leaves_ends_the_fetching(site: Appliance) -> None:
    """Ctrl-C: nothing more is asked of the upstream."""
    content = image("wanted", sizes=(10,) * 12)
    site.offer(content, "1")
    site.hub.hang("blob")
    body = json.dumps({"want": wants("1")}).encode()
    connection = site.app.site().buildProtocol(None)  # type: ignore[arg-type]
    connection.makeConnection(StringTransport())
    head = "POST /api/v1/exports HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    connection.dataReceived(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    assert len(site.hub.hanging) == 4
    connection.connectionLost(Failure(ConnectionDone()))
    for call in list(site.hub.hanging):
        call.answer()
    assert len(site.hub.asked("blob")) == 4


def test_since_takes_what_was_really_pulled(site: Appliance) -> None:
    """The age counts from now; a tag counts as pulled when its digest was."""
    old, new = image("old"), image("new")
    site.hold(old, "old")
    site.hold(new, "new")
    site.usage.note(HUB, NGINX, "old")
    site.clock.advance(3600)
    site.usage.note(HUB, NGINX, new.digest)
    assert carried(volume(site, planned(site, since=1800))) == blobs(new)
    assert carried(volume(site, planned(site, since=3600))) == blobs(new, old)


# -- what is not whole ----------------------------------------------------------------------------------------------


def test_an_image_that_is_not_whole_is_named_with_what_it_lacks(site: Appliance) -> None:
    """The rest is exported; with partial it comes as far as it goes."""
    whole, torn = image("whole"), image("torn")
    site.hold(whole, "1")
    site.hold(torn, "2", without=(torn.layers[0],))
    plan = planned(site, refs=["nginx", "redis"])
    assert plan["leftOut"] == [
        {
            "ref": "docker.io/library/nginx:2",
            "why": "1 of its blobs are not held, or damaged",
            "missing": [{"digest": torn.layers[0].digest, "size": len(torn.layers[0].data), "kind": "layer"}],
        }
    ]
    assert plan["unanswered"] == ["redis"]
    assert carried(volume(site, plan)) == blobs(whole)
    partial = planned(site, refs=["nginx"], partial=True)
    assert (partial["leftOut"], [each["ref"] for each in partial["partial"]]) == ([], ["docker.io/library/nginx:2"])


def test_complete_fetches_what_is_lacking_once(site: Appliance) -> None:
    """A layer, a platform, an image of which none was pulled: each comes through the cache."""
    torn, other = image("torn"), multi_arch("other")
    site.hold(torn, "1", without=(torn.layers[0], torn.blobs[0]))
    site.offer(torn, "1")
    site.offer(other, "2")
    plan = planned(site, refs=["nginx:1", "nginx:2"], complete=True)
    assert (plan["leftOut"], plan["unanswered"], plan["notes"]) == ([], [], [])
    assert carried(volume(site, plan)) == blobs(torn, other)
    fetched = [call.subject for call in site.hub.asked("blob")]
    assert len(fetched) == len(set(fetched))
    assert len(site.usage) == 0


def test_complete_says_what_could_not_be_fetched(site: Appliance) -> None:
    """With the upstream's own fault, and what is whole is exported."""
    torn = image("torn")
    site.hold(torn, "1", without=(torn.layers[0],))
    site.hub.fail(UpstreamUnavailable(HUB, "no route"))
    plan = planned(site, refs=["nginx:1", "redis"], complete=True)
    assert [each["ref"] for each in plan["leftOut"]] == ["docker.io/library/nginx:1"]
    assert plan["unanswered"] == ["redis"]
    assert any("no route" in note and torn.layers[0].digest in note for note in plan["notes"])
    assert any("library/redis:latest: docker.io: no route" in note for note in plan["notes"])


def test_complete_asks_for_no_pattern(site: Appliance) -> None:
    """What a pattern means upstream cannot be listed."""
    assert planned(site, refs=["ghcr.io/**", "a/*:1"], complete=True)["unanswered"] == ["ghcr.io/**", "a/*:1"]
    assert site.hub.asked() == []


def test_complete_fetches_a_few_objects_at_a_time(site: Appliance) -> None:
    """Clients' own pulls are not to wait for an export."""
    content = image(sizes=(10,) * 12)
    site.hold(content, "1", without=content.blobs)
    site.offer(content, "1")
    site.hub.hang("blob")
    asked = site.begin("POST", "exports", {"refs": ["nginx:1"], "complete": True})
    site.treq.flush()
    assert len(site.hub.hanging) == 4
    while site.hub.hanging:
        site.hub.hanging.pop(0).answer()
    site.treq.flush()
    assert result(asked).code == 201


# -- in one request -------------------------------------------------------------------------------------------------


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


# -- signed ---------------------------------------------------------------------------------------------------------


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


# -- kept -----------------------------------------------------------------------------------------------------------


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


# -- bodies ---------------------------------------------------------------------------------------------------------


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


# -- whose blobs they are -------------------------------------------------------------------------------------------


def naming(content: Content) -> bytes:
    """A manifest of another publisher that names the blobs of that image."""
    document = json.loads(content.manifest.data)
    return json.dumps(document | {"annotations": {"by": "somebody else"}}).encode()


def stolen(site: Appliance) -> Content:
    """An image is held for one repository, and a manifest that names its blobs was pulled from another."""
    content = image("secret")
    site.hold(content, "latest", name="team/secret")
    site.hub.add_manifest("mine/app", naming(content), content.manifest.media_type, "latest")
    result(site.through.manifest(site.at(HUB, "mine/app"), "latest"))
    return content


@pytest.mark.parametrize("complete", [False, True])
def test_a_bundle_carries_nothing_that_its_repository_was_not_given(site: Appliance, complete: bool) -> None:
    """Else the far side would serve it under that name: it is lacking here, and its upstream has none to fetch."""
    content = stolen(site)
    plan = planned(site, refs=["mine/app:latest"], complete=complete)
    assert [lack["ref"] for lack in plan["leftOut"]] == [f"{HUB}/mine/app:latest"]
    assert {each["digest"] for each in plan["leftOut"][0]["missing"]} == {blob.digest for blob in content.blobs}
    assert not carried(volume(site, plan))
    shown = site.get("images/mine/app:latest")
    assert not shown["image"]["offline"] and len(shown["missing"]) == len(content.blobs)
    [listed] = site.get("images?pattern=mine/app")["images"]
    assert not listed["offline"]
    # Who owns it exports and sees it as ever.
    assert planned(site, refs=["team/secret"])["leftOut"] == []
    assert site.get("images/team/secret:latest")["image"]["offline"]


def test_what_its_upstream_has_as_well_is_exported_after_one_question_each(site: Appliance) -> None:
    """Completing it fetches no byte."""
    content = stolen(site)
    for blob in content.blobs:
        site.hub.add_blob("mine/app", blob.data)
    site.hub.calls.clear()
    plan = planned(site, refs=["mine/app:latest"], complete=True)
    assert plan["leftOut"] == [] and carried(volume(site, plan)) >= {blob.digest for blob in content.blobs}
    assert [call.verb for call in site.hub.calls if call.verb.startswith("blob")] == ["blob_size"] * len(content.blobs)


def test_offline_what_a_manifest_names_and_the_store_has_is_exported() -> None:
    """There is no upstream to ask."""
    site = Appliance()
    stolen(site)
    site.through.access.remotes = {HUB: replace(site.through.access.remotes[HUB], offline=True)}
    assert planned(site, refs=["mine/app:latest"])["leftOut"] == []
    assert site.get("images/mine/app:latest")["image"]["offline"]


def test_layers_shared_with_an_image_of_before_are_exported_with_the_new_one(site: Appliance) -> None:
    """A client that has them already never asks for them again."""
    content = image("shared")
    site.hold(content, "1", name="mine/app")
    site.hub.add_manifest("mine/app", naming(content), content.manifest.media_type, "2")
    result(site.through.manifest(site.at(HUB, "mine/app"), "2"))
    assert planned(site, refs=["mine/app"])["leftOut"] == []
