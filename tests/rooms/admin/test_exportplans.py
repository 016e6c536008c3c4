"""What an export would hold, and what it lacks, said before its first byte."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import pytest
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from appliance.errors import UpstreamUnavailable
from appliance.oci.digest import Digest
from tests.doubles.appliance import HUB, NGINX, Appliance
from tests.doubles.deferreds import failing, result
from tests.doubles.images import Content, image, multi_arch
from tests.rooms.admin.exporting import blobs, carried, entries, planned, volume

# -- planned ---------------------------------------------------------------------------------------------------------


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


def test_progress_is_reported_to_who_accepts_lines(site: Appliance) -> None:
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


# -- what is not whole -----------------------------------------------------------------------------------------------


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


# -- whose blobs they are --------------------------------------------------------------------------------------------


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
