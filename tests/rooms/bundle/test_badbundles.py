"""Bundles that are damaged, made up or too new are refused, and nothing is changed."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.bundle import blobingest, contents, tar
from appliance.errors import (
    BundleDamaged,
    BundleError,
    BundleIncomplete,
    BundleTooNew,
    BundleUnreadable,
)
from appliance.oci.digest import Digest
from tests.doubles import archives, images
from tests.doubles.exports import NGINX, Site, entries
from tests.doubles.images import Content
from tests.doubles.receiver import Receiver
from tests.rooms.bundle.importing import OTHER, refuse, repacked, site, write

# CI asks for enough to keep at it for more than a minute.
EXAMPLES = int(os.environ.get("PULLCACHE_FUZZ_EXAMPLES", "150"))


def test_a_truncated_bundle_is_refused_wherever_it_is_cut(tmp_path: Path) -> None:
    """At every block boundary, and within blocks; nothing is stored, for all headers are read first."""
    made = Site().hold(images.image("small", (3000,)), NGINX, "1")
    data = made.file(made.export(all=True))
    for length in [*range(0, len(data) - 512, 512), *range(100, len(data) - 1024, 4999)]:
        receiver = Receiver()
        refuse(write(tmp_path, data[:length]), receiver)
        assert receiver.held() == 0


def test_a_flipped_bit_is_refused_or_was_of_no_importance(tmp_path: Path) -> None:
    """In headers, in the list, in blobs, in what fills them up, and in the files for other tools."""
    content = images.image("small", (2000,))
    made = Site().hold(content, NGINX, "1")
    data = made.file(made.export(all=True))
    for position in range(0, len(data), 37):
        changed = bytearray(data)
        changed[position] ^= 0x10
        path = write(tmp_path, bytes(changed))
        receiver = Receiver()
        try:
            receiver.run(path)
        except BundleError as error:
            assert path.name in str(error)
            assert receiver.names() == {}
            for blob in (content.manifest, *content.blobs):
                assert receiver.store.size(Digest.parse(blob.digest)) in (None, len(blob.data))
        else:
            # A blank in place of a leading zero of a header's checksum: the same number.
            assert position % 512 in range(148, 156), f"a changed byte at {position} of {len(data)} was not noticed"
            assert receiver.serves(content, NGINX)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_whatever_is_done_to_a_bundle_nothing_wrong_is_published(tmp_path: Path, data: st.DataObject) -> None:
    """Bytes changed, cut out and put in anywhere: a refusal that names the file, or the images as they were."""
    content = images.image("small", (2000,))
    made = Site().hold(content, NGINX, "1")
    changed = bytearray(made.file(made.export(all=True)))
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(changed)))
        stop = data.draw(st.integers(start, min(len(changed), start + 1024)))
        changed[start:stop] = data.draw(st.binary(max_size=64))
    path = write(tmp_path, bytes(changed))
    receiver = Receiver()
    try:
        receiver.run(path)
    except BundleError as error:
        assert path.name in str(error)
        assert receiver.names() == {}
    else:
        assert receiver.names() == {"docker.io/library/nginx:1": content.digest}
        assert receiver.serves(content, NGINX)


def test_a_blob_that_is_not_listed_is_refused(tmp_path: Path, plain: bytes) -> None:
    """Nothing comes in beside what the signature covers."""
    stranger = images.image("stranger").blobs[0]
    path = write(tmp_path, repacked(plain, lambda found: found.update(archives.blobs(Content(stranger)))))
    assert f"at 'blobs/sha256/{stranger.digest[7:]}': the list of contents does not know it" in str(refuse(path))


def test_a_blob_that_is_listed_and_not_inside_is_named(tmp_path: Path, plain: bytes) -> None:
    """The bundle was packed anew, and not all of it."""
    layer = OTHER.layers[0]
    path = write(tmp_path, repacked(plain, lambda found: found.pop(f"blobs/sha256/{layer.digest[7:]}")))
    error = refuse(path)
    assert isinstance(error, BundleIncomplete) and error.missing == (layer.digest,)


def test_another_blob_of_the_same_size_is_refused_and_not_kept(tmp_path: Path, plain: bytes) -> None:
    """The digest decides."""
    layer = OTHER.layers[0]
    name = f"blobs/sha256/{layer.digest[7:]}"
    assert len(layer.data) > blobingest.SMALL
    path = write(tmp_path, repacked(plain, lambda found: found.update({name: bytes(len(layer.data))})))
    receiver = Receiver()
    error = refuse(path, receiver)
    assert isinstance(error, BundleDamaged) and name in str(error) and "copy the archive again" in str(error)
    assert receiver.store.size(Digest.parse(layer.digest)) is None
    assert receiver.store.unfinished() == []


@pytest.mark.parametrize("key", ["layers", "Layers"])
def test_a_manifest_that_readers_may_differ_in_is_refused(
    tmp_path: Path, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a pull, although an earlier version exported it: its bytes are those of its digest."""
    data = OTHER.manifest.data.replace(b'"layers"', f'"{key}":[],"layers"'.encode(), 1)
    with monkeypatch.context() as earlier:
        earlier.setattr("appliance.oci.manifest.check_keys", lambda _: None)
        twice = replace(OTHER, manifest=images.Blob(OTHER.manifest.media_type, data))
        made = site().hold(twice, NGINX, "twice")
        path = write(tmp_path, made.file(made.export(all=True)))
    receiver = Receiver()
    error = refuse(path, receiver)
    assert isinstance(error, BundleDamaged) and f"'{key}' stands" in str(error)
    assert receiver.held() == 0


def test_a_later_major_version_is_refused_as_such(tmp_path: Path, plain: bytes) -> None:
    """The next step is another one than for a damaged bundle."""
    newer = plain.replace(b"vnd.pullcache.bundle.v1+json", b"vnd.pullcache.bundle.v2+json", 1)
    assert isinstance(refuse(write(tmp_path, newer)), BundleTooNew)


@pytest.mark.parametrize("name", ["../x", "/etc/x", "blobs/../../x"])
def test_a_name_that_leads_out_is_refused(tmp_path: Path, plain: bytes, name: str) -> None:
    """Although nothing is ever unpacked: the writer of such a name is not to be trusted with the rest."""
    path = write(tmp_path, archives.tar([*entries(plain).items(), (name, b"x")]))
    error = refuse(path)
    assert repr(name) in str(error) and "leads out of the archive" in str(error)


def test_a_link_in_a_bundle_is_refused(tmp_path: Path, plain: bytes) -> None:
    """No exporter writes one."""
    path = write(tmp_path, archives.tar(entries(plain), {"blobs/sha256/link": "/etc/passwd"}))
    assert "at 'blobs/sha256/link': a link or device" in str(refuse(path))


def test_an_entry_that_is_there_twice_is_refused(tmp_path: Path, plain: bytes) -> None:
    """Two readers would take two different ones."""
    found = entries(plain)
    path = write(tmp_path, archives.tar([*found.items(), (contents.BUNDLE, found[contents.BUNDLE])]))
    assert f"at '{contents.BUNDLE}': it is there twice" in str(refuse(path))


def test_too_many_entries_are_refused(tmp_path: Path, plain: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten million of them would be read for an hour."""
    monkeypatch.setattr(tar.TarReader.__init__, "__defaults__", (5,))
    assert "more than 5 entries" in str(refuse(write(tmp_path, plain)))


def test_a_pipe_does_not_hold_the_appliance(tmp_path: Path) -> None:
    """It may never be written to."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    assert isinstance(refuse(path), BundleUnreadable)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    """The path is one of the appliance, which is easily mistaken."""
    assert "No such file" in str(refuse(tmp_path / "absent.tar"))


def test_a_name_given_to_a_bundle_is_refused(bundle: Path) -> None:
    """It has its own."""
    assert "leave --as away" in str(refuse(bundle, as_name="nginx"))
