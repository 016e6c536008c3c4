"""A pulled image is whole: what a client did not ask for, because it had it, is fetched behind it."""

from __future__ import annotations

import json

import pytest
from twisted.logger import LogLevel, capturedLogs

from appliance.cache import prefetch as module
from appliance.cache.prefetch import BUSY, GIVES_WAY, GRACE, WHOLE_FOR
from appliance.index.repositories import SAVE_DELAY
from appliance.oci.digest import Digest
from appliance.oci.mediatypes import NONDISTRIBUTABLE, OCI_INDEX
from appliance.settings import PrefetchSettings
from tests.doubles.deferreds import begin, result
from tests.doubles.manifests import CONFIG, descriptor, image, index
from tests.rooms.cache.desk import APP, HUB, digests, lines
from tests.rooms.cache.prefetching import DOWN, FIVE, LAYERS, WHOLE, blobs_asked, stocked, take

# -- what is fetched -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reference", ["five", WHOLE], ids=["tag", "digest"])
def test_an_image_is_there_for_others_when_a_client_had_most_of_its_layers(reference: str | Digest) -> None:
    """One layer of five was asked for; a moment later the upstream is gone, and all five are served."""
    desk = stocked()
    desk.pull(reference)
    take(desk, LAYERS[2])
    desk.turn(GRACE)
    desk.upstream.fail(DOWN)
    take(desk, CONFIG, *LAYERS)
    assert desk.prefetch.images == 0
    assert sorted(desk.fetched) == sorted(map(len, (CONFIG, *LAYERS[:2], *LAYERS[3:])))


def test_a_client_that_asks_for_all_of_it_costs_no_request_more() -> None:
    """Whatever it asks for first, and whenever it pulls again."""
    desk = stocked()
    for _ in range(2):
        desk.pull("five", after=WHOLE_FOR + 1)
        take(desk, *LAYERS, CONFIG)
        desk.turn(GRACE)
        desk.turn(GRACE)
    assert sorted(blobs_asked(desk)) == sorted(digests(CONFIG, *LAYERS))
    assert desk.fetched == [] and desk.prefetch.images == 0


def test_only_a_pull_counts() -> None:
    """A look at the headers, as a kubelet takes with every start of a pod, fetches nothing; nor does C{none}."""
    for settings, pulled in (({}, False), ({"prefetch": PrefetchSettings(image="none")}, True)):
        desk = stocked(**settings)
        result(desk.through.manifest(desk.at(HUB, APP), "five", pulled=pulled))
        desk.turn(GRACE)
        assert blobs_asked(desk) == [] and desk.prefetch.images == 0


def test_a_pull_by_the_hot_lane_counts() -> None:
    """A prepared answer knows the tag only."""
    desk = stocked()
    result(desk.through.manifest(desk.at(HUB, APP), "five"))
    desk.through.note_pulls(desk.at(HUB, APP), "five", 33)
    desk.turn(GRACE)
    assert desk.holds(*LAYERS) == [True] * 5


def test_of_an_index_the_platforms_are_made_whole_that_were_pulled() -> None:
    """The index itself brings none of them; C{index} says that all come, attestations and nested indexes too."""
    amd64, arm64, attestation = image(LAYERS[0]), image(LAYERS[1]), image(LAYERS[2])
    inner = index(arm64, attestation)
    document = json.loads(index(amd64))
    document["manifests"].append(descriptor(OCI_INDEX, inner))
    outer = json.dumps(document).encode()
    for mode, held in (("pulled", [True, False, False]), ("index", [True, True, True])):
        desk = stocked(amd64, arm64, attestation, inner, outer, prefetch=PrefetchSettings(image=mode))
        desk.pull(Digest.of(outer))
        desk.turn(GRACE)
        assert (desk.holds(LAYERS[0]) == [True]) is (mode == "index")
        desk.pull(Digest.of(amd64))
        desk.turn(GRACE)
        assert desk.holds(*LAYERS[:3]) == held and desk.prefetch.images == 0


def test_a_client_that_reads_the_metadata_of_every_platform_brings_the_one_it_pulls() -> None:
    """containerd 2: manifest and configuration of each, layers of one; all have a layer without files in common."""
    common = LAYERS[4]
    amd64, arm64, s390x = (image(common, layer) for layer in LAYERS[:3])
    whole = index(amd64, arm64, s390x)
    desk = stocked(amd64, arm64, s390x, whole)
    for manifest in (whole, amd64, arm64, s390x):
        desk.pull(Digest.of(manifest))
    take(desk, CONFIG, common, LAYERS[0])
    desk.turn(GRACE)
    assert desk.holds(*LAYERS[:3]) == [True, False, False]


def test_a_platform_of_which_a_client_had_all_layers_is_made_whole() -> None:
    """Manifest and configuration were asked for, as before; but no other platform's layers were."""
    amd64, arm64 = image(LAYERS[0]), image(LAYERS[1])
    whole = index(amd64, arm64)
    desk = stocked(amd64, arm64, whole)
    desk.pull(Digest.of(amd64))
    take(desk, CONFIG, LAYERS[0])
    desk.clock.advance(3600.0)
    desk.pull(Digest.of(whole))
    desk.pull(Digest.of(arm64))
    take(desk, CONFIG)
    desk.turn(GRACE)
    assert desk.holds(LAYERS[1]) == [True]


def test_a_layer_that_another_repository_brought_is_there_as_well() -> None:
    """Its own upstream has been asked for it, where that is needed, before it is gone."""
    desk = stocked()
    for blob in LAYERS:
        desk.upstream.add_blob("other", blob)
        result(desk.through.blob(desk.at(HUB, "other"), Digest.of(blob))).close()
    desk.pull("five")
    take(desk, LAYERS[2])
    desk.turn(GRACE)
    desk.upstream.fail(DOWN)
    take(desk, CONFIG, *LAYERS)


@pytest.mark.parametrize("whole", [True, False])
def test_a_platform_that_a_client_had_through_another_repository_is_there_as_well(whole: bool) -> None:
    """containerd has its manifest, too, and asks for the index alone: its upstream is asked, and sends no blob."""
    desk = stocked()
    result(desk.through.manifest(desk.at(HUB, APP), "five"))
    take(desk, CONFIG, *LAYERS[0 if whole else 1 :])
    listed = index(image(LAYERS[3]), FIVE)
    desk.upstream.add_manifest("mirror", listed, OCI_INDEX, "latest")
    desk.upstream.add_manifest("mirror", FIVE, json.loads(FIVE)["mediaType"])
    for each in (CONFIG, *LAYERS):
        desk.upstream.add_blob("mirror", each)
    result(desk.through.manifest(desk.at(HUB, "mirror"), "latest", pulled=True))
    desk.asked()
    desk.turn(GRACE)
    assert desk.prefetch.images == 0
    if not whole:
        # It is not known that it is this platform that was pulled.
        assert desk.asked() == []
        return
    assert [call.verb for call in desk.upstream.calls] == ["head", *["blob_size"] * 6]
    desk.upstream.fail(DOWN)
    assert result(desk.through.manifest(desk.at(HUB, "mirror"), WHOLE)).data == FIVE
    for each in (CONFIG, *LAYERS):
        result(desk.through.blob(desk.at(HUB, "mirror"), Digest.of(each))).close()


@pytest.mark.parametrize("media_type", sorted(NONDISTRIBUTABLE))
def test_layers_that_may_not_be_distributed_are_left_alone(media_type: str) -> None:
    """Their descriptors name other places, and registries do not have them: the image lacks nothing else."""
    foreign = descriptor(media_type, b"foreign", urls=["https://elsewhere.example/foreign"])
    document = json.loads(FIVE)
    document["layers"].insert(0, foreign)
    windows = json.dumps(document).encode()
    desk = stocked(windows)
    with capturedLogs() as logged:
        desk.pull(Digest.of(windows))
        desk.turn(GRACE)
    assert digests(b"foreign")[0] not in blobs_asked(desk)
    assert desk.holds(*LAYERS) == [True] * 5 and desk.prefetch.images == 0
    assert [line["log_level"] for line in lines(logged)] == [LogLevel.info]


def test_an_image_of_thousands_of_layers_is_fetched_once_each() -> None:
    """Also where the same layer stands there again and again."""
    layers = [b"%d" % number for number in range(2000)]
    many = image(*layers, *layers)
    desk = stocked(many)
    for layer in layers:
        desk.upstream.add_blob(APP, layer)
    desk.pull(Digest.of(many))
    desk.turn(GRACE)
    assert sorted(blobs_asked(desk)) == sorted(digests(CONFIG, *layers))


# -- when ------------------------------------------------------------------------------------------------------------


def test_nothing_is_fetched_while_the_client_still_asks() -> None:
    """One layer after the other, with a pause between them: each is asked for by the client itself."""
    desk = stocked()
    desk.pull("five")
    for blob in (CONFIG, *LAYERS):
        desk.turn(GRACE - 0.1)
        take(desk, blob)
    desk.turn(GRACE)
    assert [call.background for call in desk.upstream.asked("blob")] == [False] * 6


def test_it_goes_behind_what_clients_wait_for() -> None:
    """Of any image; when that has come, it begins, one blob at a time and in the background."""
    desk = stocked()
    desk.pull("five")
    desk.upstream.by_hand = True
    waiting = begin(desk.through.blob(desk.at(HUB, APP), Digest.of(b"app")))
    for _ in range(10):
        desk.turn(GRACE)
    assert blobs_asked(desk) == digests(b"app")
    desk.upstream.bodies[0].complete()
    result(waiting).close()
    desk.turn(GRACE)
    assert [call.background for call in desk.upstream.asked("blob")] == [False, True]
    desk.upstream.by_hand = False
    desk.upstream.bodies[1].complete()
    desk.turn(GRACE)
    assert desk.holds(*LAYERS) == [True] * 5


def test_it_does_not_give_way_for_ever() -> None:
    """Where a client always waits for something; and where a repository is requested all the time."""
    desk = stocked()
    desk.pull("five")
    for _ in range(int(BUSY / GRACE) + 2):
        desk.prefetch.requested(HUB, APP)
        desk.turn(GRACE / 2)
        desk.prefetch.requested(HUB, APP)
        desk.turn(GRACE / 2)
    assert desk.holds(*LAYERS) == [True] * 5
    desk = stocked()
    desk.pull("five")
    desk.upstream.by_hand = True
    begin(desk.through.blob(desk.at(HUB, APP), Digest.of(b"app")))
    desk.upstream.by_hand = False
    for _ in range(int(GIVES_WAY / GRACE) + 1):
        desk.turn(GRACE)
    assert desk.holds(*LAYERS) == [True] * 5


def test_a_client_that_comes_for_it_after_all_joins_and_does_not_queue() -> None:
    """One request upstream, which is told that a client waits."""
    desk = stocked()
    desk.pull("five")
    desk.upstream.hang("blob")
    desk.turn(GRACE)
    config = digests(CONFIG)[0]
    [call] = desk.upstream.asked("blob")
    assert (call.subject, call.background) == (config, True)
    desk.upstream.heal()
    joined = begin(desk.through.blob(desk.at(HUB, APP), Digest.of(CONFIG)))
    [hanging] = desk.upstream.hanging
    assert desk.upstream.asked("blob") == [call] and not hanging.cancelled
    assert desk.upstream.awaiting == [Digest.of(CONFIG)]
    hanging.answer()
    result(joined).close()
    assert sorted(blobs_asked(desk)) == sorted(digests(CONFIG, *LAYERS))


def test_an_image_that_is_known_to_be_whole_is_not_looked_at_again() -> None:
    """A pull of it, by tag or digest, begins nothing at all."""
    desk = stocked()
    desk.pull("five")
    desk.turn(GRACE)
    for reference in ("five", str(WHOLE)):
        desk.through.note_pulls(desk.at(HUB, APP), reference)
    desk.turn(SAVE_DELAY)
    for reference in ("five", str(WHOLE)):
        desk.through.note_pulls(desk.at(HUB, APP), reference, digest=WHOLE if reference == "five" else None)
        assert desk.prefetch.images == 0 and desk.clock.getDelayedCalls() == []


def test_no_more_than_so_many_are_remembered_to_be_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest are left out, which is said once; they come with a pull when there is room."""
    monkeypatch.setattr(module, "LIMIT", 2)
    made = [image(layer) for layer in LAYERS]
    desk = stocked(*made)
    with capturedLogs() as logged:
        for manifest in made:
            result(desk.through.manifest(desk.at(HUB, APP), Digest.of(manifest), pulled=True))
    assert (desk.prefetch.images, [event["limit"] for event in lines(logged)]) == (2, [2])
    desk.turn(GRACE)
    assert desk.holds(*LAYERS) == [True, True, False, False, False]
    desk.pull(Digest.of(made[4]))
    desk.turn(GRACE)
    assert desk.holds(LAYERS[4]) == [True]
