"""Imports over the API: lines that tell how far it is, then a receipt or a reason."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.logger import capturedLogs
from twisted.python.failure import Failure

from appliance.bundle.inbox import INTERVAL
from appliance.bundle.minisign import SecretKey
from appliance.errors import Offline, UpstreamUnavailable
from appliance.flow.disk import InlineThreads
from appliance.oci.digest import Digest
from appliance.settings import ListenSettings, UpstreamSettings
from tests.doubles import archives
from tests.doubles.appliance import HUB, NGINX, Answer, Appliance
from tests.doubles.deferreds import failing, result
from tests.doubles.images import image, multi_arch


def bundle(folder: Path, *contents: Any, key: SecretKey | None = None, name: str = "b.tar") -> str:
    """A file with these images, each under a tag that is its number, made by the appliance next door."""
    site = Appliance()
    for number, content in enumerate(contents, 1):
        site.hold(content, str(number))
    plan = site.ask("POST", "exports", {"all": True}).json
    if key is not None:
        document = site.ask("GET", f"exports/{plan['id']}/document").body
        signature = key.sign(document, "x").encode()
        site.ask("PUT", f"exports/{plan['id']}/signature", data=signature, headers={"Content-Type": "text/plain"})
    (folder / name).write_bytes(site.ask("GET", f"exports/{plan['id']}/volumes/1").body)
    return str(folder / name)


def receipt(answer: Answer) -> Any:
    assert (answer.code, answer.header("Content-Type")) == (200, "application/x-ndjson")
    assert set(answer.lines[-1]) == {"receipt"}, answer.lines[-1]
    return answer.lines[-1]["receipt"]


def test_a_tag_that_an_import_moves_is_shown_with_its_bundle(tmp_path: Path) -> None:
    """Who looks at an image later sees since when it means this, and which bundle said so."""
    site = Appliance(offline=True)
    old, new = image("old"), image("new")
    site.hold(old, "1")
    done = receipt(site.ask("POST", "imports", {"files": [bundle(tmp_path, new, image("other"))]}))
    [moved] = site.get("images/nginx:1")["moves"]
    assert moved == {
        "at": "2027-01-15T08:00:00Z",
        "from": old.digest,
        "to": new.digest,
        "by": done["bundle"],
        "refused": False,
    }
    assert site.get("images/nginx:2")["moves"] == []


def test_an_import_leaves_a_locked_tag_as_it_is(tmp_path: Path) -> None:
    """The dry run says so too, and the receipt says how to lift it."""
    site = Appliance(offline=True)
    old, new = image("old"), image("new")
    site.hold(old, "1")
    result(site.repositories.get(HUB, NGINX)).lock("1")
    files = [bundle(tmp_path, new)]
    for dry_run in (True, False):
        done = receipt(site.ask("POST", "imports", {"files": files, "dryRun": dry_run}))
        assert [(each["outcome"], each["locked"]) for each in done["refs"]] == [("kept", True)]
        assert any("docker.io/library/nginx:1" in note and "pullcache unpin" in note for note in done["notes"])
    assert site.get("images/nginx:1")["image"]["digest"] == old.digest
    assert site.get("images/nginx:1")["moves"] == []
    assert site.get(f"images/nginx@{new.digest}")["image"]["pinned"] == done["bundle"]


def refusal(answer: Answer) -> Any:
    assert answer.code == 200 and set(answer.lines[-1]) == {"error"}
    return answer.lines[-1]["error"]


def test_a_bundle_is_imported_and_served(tmp_path: Path) -> None:
    """Without a network: the manifest that went in on the other side comes out here."""
    content = image()
    site = Appliance(offline=True)
    answer = site.ask("POST", "imports", {"files": [bundle(tmp_path, content)]})
    assert [each["outcome"] for each in receipt(answer)["refs"]] == ["new"]
    assert result(site.through.manifest(site.at(HUB, "nginx"), "1")).data == content.manifest.data
    blob = result(site.through.blob(site.at(HUB, "nginx"), Digest.parse(content.layers[0].digest)))
    assert blob.size == len(content.layers[0].data)
    blob.close()


@pytest.mark.parametrize("held", ["nothing", "pulled before", "elsewhere"])
def test_what_a_bundle_brought_is_its_repositorys_while_online_too(tmp_path: Path, held: str) -> None:
    """A bundle is trusted as a whole: no upstream is asked for what it names, and its upstream may be gone."""
    content = image()
    path = bundle(tmp_path, content)
    site = Appliance()
    if held == "elsewhere":
        site.hold(content, "1", name="team/other")
    if held == "pulled before":
        site.hold(content, "1", name="team/other")
        site.offer(content, "1")
        result(site.through.manifest(site.at(HUB, NGINX), "1"))
    site.hub.fail(UpstreamUnavailable(HUB, "gone"))
    receipt(site.ask("POST", "imports", {"files": [path]}))
    site.hub.calls.clear()
    for blob in content.blobs:
        answer = result(site.through.blob(site.at(HUB, NGINX), Digest.parse(blob.digest)))
        assert answer.size == len(blob.data)
        answer.close()
    assert (
        result(site.through.manifest(site.at(HUB, NGINX), Digest.parse(content.digest))).data == content.manifest.data
    )
    assert site.hub.calls == []


def test_each_line_tells_how_far_it_is(tmp_path: Path) -> None:
    """The stages in order, with bytes done of bytes to do."""
    content = image(sizes=(300_000, 10))
    answer = Appliance().ask("POST", "imports", {"files": [bundle(tmp_path, content)]})
    *progress, last = answer.lines
    assert [each["stage"] for each in progress] == ["opening", "checking", "storing", "publishing"]
    assert progress[-1]["done"] == progress[-1]["total"] == last["receipt"]["newBytes"] > 300_000


def test_progress_is_reported_a_few_times_a_second(tmp_path: Path) -> None:
    """Ten thousand small blobs are not ten thousand lines."""
    site = Appliance()
    many = [image(str(number), sizes=(10,)) for number in range(30)]
    answer = site.ask("POST", "imports", {"files": [bundle(tmp_path, *many)]})
    assert len(receipt(answer)["refs"]) == 30 and len(answer.lines) == 5


def test_the_receipt_is_kept(tmp_path: Path) -> None:
    """It can be asked for by its id, and stands in the list."""
    site = Appliance()
    kept = receipt(site.ask("POST", "imports", {"files": [bundle(tmp_path, image())]}))
    assert site.get(f"imports/{kept['id']}") == kept
    assert site.get("imports") == {"receipts": [kept]}
    assert site.error("GET", "imports/nothing")[:2] == (404, "not-held")


def test_a_dry_run_changes_nothing(tmp_path: Path) -> None:
    """It reports what would come of it; nothing is stored, kept or forgotten."""
    site = Appliance(offline=True)
    failing(site.through.manifest(site.at(HUB, NGINX), "1"), Offline)
    dry = receipt(site.ask("POST", "imports", {"files": [bundle(tmp_path, image())], "dryRun": True}))
    assert dry["dryRun"] and dry["refs"][0]["outcome"] == "new"
    assert (site.store.total(), site.published, len(site.wants)) == (0, 0, 1)
    assert site.get("imports") == {"receipts": []}


def test_the_wants_it_met_are_forgotten(tmp_path: Path) -> None:
    """What it did not bring stays wanted."""
    content = multi_arch()
    site = Appliance(offline=True)
    for reference in ("1", "lost", Digest.parse(content.children[1].digest)):
        failing(site.through.manifest(site.at(HUB, NGINX), reference), Offline)
    failing(site.through.blob(site.at(HUB, NGINX), Digest.parse(content.children[0].layers[0].digest)), Offline)
    receipt(site.ask("POST", "imports", {"files": [bundle(tmp_path, content)]}))
    assert [each["name"] for each in site.get("wants")["wants"]] == ["docker.io/library/nginx:lost"]


def test_answers_prepared_before_are_forgotten_when_tags_move(tmp_path: Path) -> None:
    """A client that asks right after the import is answered with what the tag means now."""
    site = Appliance()
    receipt(site.ask("POST", "imports", {"files": [bundle(tmp_path, image("old"), name="1")]}))
    receipt(site.ask("POST", "imports", {"files": [bundle(tmp_path, image("new"), name="2")]}))
    assert site.published == 2
    assert result(site.through.manifest(site.at(HUB, NGINX), "1")).data == image("new").manifest.data


@pytest.mark.parametrize(("choice", "outcome"), [("move", "moved"), ("keep", "kept")])
def test_a_tag_that_means_something_else_is_treated_as_ordered(tmp_path: Path, choice: str, outcome: str) -> None:
    """Moved, or kept."""
    site = Appliance()
    site.hold(image("here"), "1")
    order = {"files": [bundle(tmp_path, image("there"))], "onExistingTag": choice}
    assert [each["outcome"] for each in receipt(site.ask("POST", "imports", order))["refs"]] == [outcome]


def test_a_tag_that_means_something_else_can_be_a_reason_to_refuse(tmp_path: Path) -> None:
    """Nothing is published."""
    site = Appliance()
    site.hold(image("here"), "1")
    order = {"files": [bundle(tmp_path, image("there"))], "onExistingTag": "refuse"}
    assert refusal(site.ask("POST", "imports", order))["code"] == "bundle-conflict"
    assert site.published == 0


def test_a_key_is_trusted_by_configuration_or_for_one_import(tmp_path: Path) -> None:
    """A configured key has what others signed refused, and the order adds none unless the configuration lets it."""
    ours, theirs = SecretKey.generate(), SecretKey.generate()
    file = bundle(tmp_path, image(), key=theirs)
    strict = Appliance(trust=(str(ours.public),))
    assert refusal(strict.ask("POST", "imports", {"files": [file]}))["code"] == "bundle-untrusted"
    order = {"files": [file], "trust": [str(theirs.public)]}
    error = refusal(strict.ask("POST", "imports", order))
    assert error["code"] == "bundle-untrusted" and str(theirs.public) in error["message"]
    assert receipt(Appliance().ask("POST", "imports", order))["signer"] == theirs.public.key_id
    lenient = Appliance(trust=(str(ours.public),), accept_callers_keys=True)
    assert receipt(lenient.ask("POST", "imports", order))["signer"] == theirs.public.key_id
    assert receipt(Appliance(trust=(str(theirs.public),)).ask("POST", "imports", {"files": [file]}))
    unsigned = bundle(tmp_path, image(), name="unsigned.tar")
    required = Appliance(require_signature=True)
    assert refusal(required.ask("POST", "imports", {"files": [unsigned]}))["code"] == "bundle-untrusted"


def saved(folder: Path, name: str, content: Any) -> str:
    """A file as C{docker save} writes it."""
    files, links = archives.docker_save((content, [name]))
    (folder / "saved.tar").write_bytes(archives.tar(files, links))
    return str(folder / "saved.tar")


def test_an_image_that_was_pulled_through_this_appliance_is_imported_as_what_it_is(tmp_path: Path) -> None:
    """docker save calls it after the appliance; here and on the command line the address is left away."""
    site = Appliance(aliases=("cache.site",))
    order = {"files": [saved(tmp_path, "localhost:5000/docker.io/library/nginx:1", image("a"))]}
    [change] = receipt(site.ask("POST", "imports", order))["refs"]
    assert (change["name"], change["renamedFrom"]) == (
        "docker.io/library/nginx:1",
        "localhost:5000/docker.io/library/nginx:1",
    )
    assert result(site.through.manifest(site.at(HUB, NGINX), "1")).digest
    order = {"files": [saved(tmp_path, "cache.site/docker.io/nginx:2", image("b"))]}
    assert [each["name"] for each in receipt(site.ask("POST", "imports", order))["refs"]] == [
        "docker.io/library/nginx:2"
    ]
    for asked in ("127.0.0.1:5000/docker.io/library/nginx", "cache.site/docker.io/nginx"):
        assert site.get(f"images/{asked}:1")["image"]["name"] == "docker.io/library/nginx:1"
        plan = site.ask("POST", "exports", {"refs": [f"{asked}:1", f"{asked}:2"]})
        assert [each["name"] for each in site.get(f"exports/{plan.json['id']}/document")["refs"]] == [
            "docker.io/library/nginx:1",
            "docker.io/library/nginx:2",
        ]
        assert len(site.get(f"images?pattern={asked}")["images"]) == 2


def test_a_name_without_an_upstream_is_of_the_listeners_default(tmp_path: Path) -> None:
    """As for clients; without a default it is refused, and nothing is stored."""
    order = {"files": [saved(tmp_path, "localhost:5000/nginx:1", image())]}
    error = refusal(Appliance().ask("POST", "imports", order))
    assert "has no default_upstream" in error["message"] and "--rename localhost:5000=docker.io" in error["message"]
    site = Appliance()
    listen = (ListenSettings(endpoint="tcp:port=5000", default_upstream=HUB),)
    site.settings = msgspec.structs.replace(site.settings, listen=listen)
    assert [each["name"] for each in receipt(site.ask("POST", "imports", order))["refs"]] == [
        "docker.io/library/nginx:1"
    ]
    assert site.error("GET", "images/localhost:5000/nginx:2")[:2] == (404, "not-held")


def test_an_upstream_that_is_not_configured_is_refused_until_it_is(tmp_path: Path) -> None:
    """Then clients can pull it, and after a reload without it the next import is refused again."""
    site = Appliance()
    order = {"files": [saved(tmp_path, "registry.corp:5000/team/app:1", image())]}
    error = refusal(site.ask("POST", "imports", order))
    assert error["code"] == "bundle-upstream-unknown"
    line = '"registry.corp:5000": {url: "https://registry.corp:5000", offline: true}'
    assert line in error["message"]
    dry = receipt(site.ask("POST", "imports", {**order, "dryRun": True}))
    assert dry["unknownUpstreams"] == ["registry.corp:5000"] and any(line in note for note in dry["notes"])
    assert (site.store.total(), site.published) == (0, 0)
    before = site.settings
    corp = UpstreamSettings(name="registry.corp:5000", urls=("https://registry.corp:5000",), offline=True)
    site.settings = msgspec.structs.replace(before, upstreams={**before.upstreams, corp.name: corp})
    assert receipt(site.ask("POST", "imports", order))["unknownUpstreams"] == []
    site.settings = before
    assert refusal(site.ask("POST", "imports", order))["code"] == "bundle-upstream-unknown"


def test_an_order_may_rename(tmp_path: Path) -> None:
    """A mapping of prefixes; what is none is refused before anything is opened."""
    site = Appliance()
    order = {"files": [saved(tmp_path, "registry.corp:5000/team/app:1", image())]}
    rename = {"registry.corp:5000/team": "docker.io/corp"}
    assert [each["name"] for each in receipt(site.ask("POST", "imports", {**order, "rename": rename}))["refs"]] == [
        "docker.io/corp/app:1"
    ]
    code, word, message = site.error("POST", "imports", {**order, "rename": {"registry.corp:5000/": "docker.io"}})
    assert (code, word) == (400, "name-invalid")


def test_an_increment_that_builds_on_what_is_not_here_says_what(tmp_path: Path) -> None:
    """Every missing digest, for a program to read."""
    here, new = image("base"), image("new")
    maker = Appliance()
    maker.hold(here, "1")
    maker.hold(new, "2")
    inventory = {"blobs": [{"digest": blob.digest} for blob in here.blobs], "manifests": [here.digest]}
    plan = maker.ask("POST", "exports", {"refs": ["nginx"], "have": inventory}).json
    (tmp_path / "i.tar").write_bytes(maker.ask("GET", f"exports/{plan['id']}/volumes/1").body)
    error = refusal(Appliance().ask("POST", "imports", {"files": [str(tmp_path / "i.tar")]}))
    assert error["code"] == "bundle-incomplete"
    assert set(error["missing"]) == {here.digest, *(blob.digest for blob in here.blobs)}


@pytest.mark.parametrize(("data", "code"), [(b"junk" * 1000, "bundle-unreadable"), (None, "bundle-unreadable")])
def test_what_is_no_archive_is_refused_by_its_name(tmp_path: Path, data: bytes | None, code: str) -> None:
    """A file of something else, or none at all."""
    if data is not None:
        (tmp_path / "x").write_bytes(data)
    error = refusal(Appliance().ask("POST", "imports", {"files": [str(tmp_path / "x")]}))
    assert error["code"] == code and str(tmp_path / "x") in error["message"]


def test_a_mistake_of_ours_is_reported_as_one_and_logged(tmp_path: Path, logged_errors: list[dict[str, Any]]) -> None:
    """The line has no details; the log has."""
    site = Appliance()

    def broken(*_: object) -> None:
        raise ValueError("a detail for the log")

    site.services.imports._importer.run = broken  # type: ignore[method-assign,assignment]
    answer = site.ask("POST", "imports", {"files": ["/x"]})
    assert refusal(answer)["code"] == "internal" and b"detail" not in answer.body
    assert any("a detail for the log" in str(event.get("log_failure")) for event in logged_errors)
    logged_errors.clear()


@pytest.mark.parametrize(
    ("order", "reason"),
    [
        ({}, "missing required field `files`"),
        ({"files": []}, "length >= 1"),
        ({"files": ["relative.tar"]}, "'relative.tar': write the absolute path"),
        ({"files": ["/a\0b"]}, "write the absolute path"),
        ({"files": ["/x"], "onExistingTag": "replace"}, "Invalid enum value 'replace'"),
        ({"files": ["/x"], "trust": ["nonsense"]}, "no minisign public key"),
        ({"files": ["/x"], "dry_run": True}, "unknown field `dry_run`"),
    ],
)
def test_an_order_that_makes_no_sense_is_refused_before_it_begins(order: Any, reason: str) -> None:
    """With a status that says so, and the field at fault."""
    code, _, message = Appliance().error("POST", "imports", order)
    assert code in (400, 422) and reason in message


# -- cut short ------------------------------------------------------------------------------------------------------


class SlowThreads(InlineThreads):
    """Threads of which the next call never comes back until the test says so."""

    def __init__(self) -> None:
        self.waiting: Deferred[Any] | None = None

    def call(self, function: Any, *args: Any) -> Deferred[Any]:
        """See L{IThreads.call}."""
        if function.__name__ != "read_contents":
            return super().call(function, *args)
        self.waiting = Deferred()
        return self.waiting


def slow(tmp_path: Path) -> tuple[Appliance, SlowThreads, Deferred[Any]]:
    """An import under way."""
    site, threads = Appliance(), SlowThreads()
    site.services.imports._importer._threads = threads
    asked = site.begin("POST", "imports", {"files": [bundle(tmp_path, image())]})
    site.treq.flush()
    assert threads.waiting is not None and not threads.waiting.called
    return site, threads, asked


def test_a_client_that_leaves_ends_the_import(tmp_path: Path) -> None:
    """Ctrl-C leaves nothing running, and the next import is not held up."""
    site, threads = Appliance(), SlowThreads()
    site.services.imports._importer._threads = threads
    body = json.dumps({"files": [bundle(tmp_path, image())]}).encode()
    connection = site.app.site().buildProtocol(None)  # type: ignore[arg-type]
    transport = StringTransport()
    connection.makeConnection(transport)
    head = "POST /api/v1/imports HTTP/1.1\r\nHost: 127.0.0.1:5001\r\nContent-Type: application/json\r\n"
    head += "Content-Length: %d\r\n\r\n"
    connection.dataReceived((head % len(body)).encode() + body)
    assert b'"stage":"checking"' in transport.value()
    assert threads.waiting is not None and not threads.waiting.called
    connection.connectionLost(Failure(ConnectionDone()))
    assert threads.waiting.called
    site.services.imports._importer._threads = InlineThreads()
    assert receipt(site.ask("POST", "imports", {"files": [str(tmp_path / "b.tar")]}))


def test_a_stop_cuts_imports_and_waits_for_their_end(tmp_path: Path) -> None:
    """The appliance can be stopped while an import runs; what was stored is kept."""
    site, threads, asked = slow(tmp_path)
    result(site.services.stop_imports())
    assert threads.waiting is not None and threads.waiting.called
    assert not site.services.imports._under_way
    site.treq.flush()
    content = site.treq.content(result(asked))
    site.treq.flush()
    last = json.loads(result(content).splitlines()[-1])
    assert last["error"]["code"] == "stopped"


# -- the inbox ------------------------------------------------------------------------------------------------------


def test_a_file_that_becomes_a_link_is_not_read_from_the_inbox(tmp_path: Path) -> None:
    """It was a file when it was looked at, and leads elsewhere when it is opened: nothing of that is imported."""
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    elsewhere = bundle(tmp_path, image())
    site = Appliance(inbox=inbox)
    (inbox / "a.tar").write_bytes(b"looked at")
    run, swapped = site.services.inbox._run, []  # type: ignore[union-attr]

    async def run_later(files: list[Path], progress: Any) -> Any:
        if not swapped:
            (inbox / "a.tar").unlink()
            (inbox / "a.tar").symlink_to(elsewhere)
        swapped.append(files)
        return await run(files, progress)

    site.services.inbox._run = run_later  # type: ignore[union-attr]
    result(Deferred.fromCoroutine(site.services.start_imports()))
    site.clock.advance(INTERVAL)
    assert swapped and site.store.total() == 0
    assert "symbolic links" in site.get("status")["inbox"][0]["reason"]
    result(Deferred.fromCoroutine(site.services.stop_imports()))


def test_what_lacks_another_bundle_is_imported_when_that_was(tmp_path: Path) -> None:
    """The base is imported by hand, and the increment that lay in the inbox follows at the next look."""
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    base, more = image("base"), image("more")
    sender = Appliance()
    sender.hold(base, "1")
    first = sender.ask("POST", "exports", {"all": True}).json
    (tmp_path / "base.tar").write_bytes(sender.ask("GET", f"exports/{first['id']}/volumes/1").body)
    inventory = sender.get("inventory")
    sender.hold(more, "2")
    second = sender.ask("POST", "exports", {"all": True, "have": inventory}).json
    (inbox / "more.tar").write_bytes(sender.ask("GET", f"exports/{second['id']}/volumes/1").body)
    site = Appliance(inbox=inbox)
    result(Deferred.fromCoroutine(site.services.start_imports()))
    site.clock.advance(INTERVAL)
    assert "it builds on" in site.get("status")["inbox"][0]["reason"]
    receipt(site.ask("POST", "imports", {"files": [str(tmp_path / "base.tar")]}))
    site.clock.advance(INTERVAL)
    assert site.get("status")["inbox"] == [] and (inbox / "done" / "more.tar").exists()
    result(Deferred.fromCoroutine(site.services.stop_imports()))


def test_a_path_tells_nothing_of_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Missing, forbidden and no file are one answer, so that asking shows no disk; the log has the reason."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "secret").write_bytes(b"x")
    opened = os.open

    def refusing(path: Any, *more: Any, **named: Any) -> int:
        if str(path).endswith("/secret"):
            raise PermissionError(13, "Permission denied")
        return opened(path, *more, **named)

    monkeypatch.setattr("appliance.bundle.archive.os.open", refusing)
    said = {}
    reasons: list[str] = []
    with capturedLogs() as logged:
        for name in ("absent", "file/below", "secret", "pipe"):
            fault = refusal(Appliance().ask("POST", "imports", {"files": [f"{tmp_path}/{name}"]}))
            said[name] = (fault["code"], fault["message"].replace(name, "NAME"))
    reasons = [str(event.get("error")) for event in logged if "error" in event]
    assert len(set(said.values())) == 1, said
    code, message = said["absent"]
    assert code == "bundle-unreadable" and f"{tmp_path}/NAME" in message and "log" in message
    assert [reason.removeprefix(f"{tmp_path}/").split(":")[0] for reason in reasons] == list(said)
    assert "No such file" in reasons[0] and "Permission denied" in reasons[2] and "no regular file" in reasons[3]
    several = refusal(Appliance().ask("POST", "imports", {"files": [f"{tmp_path}/absent", f"{tmp_path}/pipe"]}))
    assert several["code"] == "bundle-unreadable" and "one of 2 files" in several["message"]
