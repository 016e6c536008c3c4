"""pullcache verify: without an appliance, a store or a network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from appliance.bundle import contents
from appliance.bundle.minisign import SecretKey
from appliance.oci.digest import Digest
from tests.rooms.cli import bundles
from tests.rooms.cli.runs import run


def flip(path: Path, what: bytes) -> None:
    """Change one byte where C{what} stands."""
    data = bytearray(path.read_bytes())
    at = data.rindex(what)
    data[at] ^= 1
    path.write_bytes(data)


def test_a_whole_bundle_is_reported_in_full(tmp_path: Path) -> None:
    """Signer, what is in it, and the root to read over the telephone."""
    key = SecretKey.generate()
    ended = run("verify", str(bundles.single(tmp_path / "a.tar", key)), "--trust", str(key.public))
    assert ended.code == 0
    for text in (key.public.key_id, "from site-a", bundles.NAME, bundles.bundle().content_root, "2 blobs", "weekly"):
        assert text in ended.out


def test_json_says_the_same(tmp_path: Path) -> None:
    """A script decides on fields."""
    key = SecretKey.generate()
    ended = run("verify", "--json", str(bundles.single(tmp_path / "a.tar", key)), "--trust", str(key.public))
    document = json.loads(ended.out)
    assert (document["signer"], document["contentRoot"]) == (key.public.key_id, bundles.bundle().content_root)
    assert [ref["name"] for ref in document["refs"]] == [bundles.NAME]


def test_the_key_may_be_a_file(tmp_path: Path) -> None:
    """What keygen wrote is what verify takes."""
    key = SecretKey.generate()
    (tmp_path / "a.pub").write_text(key.public.dump())
    assert run("verify", str(bundles.single(tmp_path / "a.tar", key)), "--trust", str(tmp_path / "a.pub")).code == 0


def test_without_a_key_the_signer_is_named_and_not_vouched_for(tmp_path: Path) -> None:
    """An unchecked signature is never shown as a checked one."""
    key = SecretKey.generate()
    ended = run("verify", "--json", str(bundles.single(tmp_path / "a.tar", key)))
    document = json.loads(ended.out)
    assert (ended.code, document["signer"]) == (0, None)
    assert key.public.key_id in document["signature"] and "not checked" in document["signature"]


@pytest.mark.parametrize("signer", [None, SecretKey.generate()])
def test_a_bundle_of_no_signer_i_trust_is_refused(tmp_path: Path, signer: SecretKey | None) -> None:
    """Unsigned, or signed by another: exit 1, one line, which names the file."""
    path = bundles.single(tmp_path / "a.tar", signer)
    ended = run("verify", str(path), "--trust", str(SecretKey.generate().public))
    assert (ended.code, ended.out, ended.err.count("\n")) == (1, "", 1)
    assert str(path) in ended.err


def test_a_signature_of_another_list_is_refused(tmp_path: Path) -> None:
    """A signature cannot be carried over to other contents."""
    key = SecretKey.generate()
    other = bundles.head(bundles.bundle(title="other"), key)[1]
    entries = [*bundles.head(bundles.bundle()), other, *map(bundles.blob, bundles.BLOBS)]
    path = bundles.write(tmp_path / "a.tar", entries)
    assert run("verify", str(path), "--trust", str(key.public)).code == 1


def test_a_flipped_byte_in_a_layer_is_found(tmp_path: Path) -> None:
    """Every digest is checked; the blob and the file are named."""
    path = bundles.single(tmp_path / "a.tar")
    flip(path, bundles.LAYER)
    ended = run("verify", str(path))
    assert (ended.code, ended.out) == (1, "")
    assert str(path) in ended.err and str(Digest.of(bundles.LAYER)) in ended.err


def test_a_flipped_byte_in_the_list_of_contents_is_found(tmp_path: Path) -> None:
    """A changed name or digest does not pass."""
    path = bundles.single(tmp_path / "a.tar")
    flip(path, b"weekly")
    assert run("verify", str(path)).code == 1


def test_a_file_that_was_cut_is_found(tmp_path: Path) -> None:
    """A copy that did not finish is said to be cut."""
    path = bundles.single(tmp_path / "a.tar")
    path.write_bytes(path.read_bytes()[:-1024])
    assert run("verify", str(path)).code == 1


def test_a_blob_that_is_not_listed_is_found(tmp_path: Path) -> None:
    """Nothing can be smuggled in beside the signed list."""
    extra = bundles.blob(b"extra")
    entries = [*bundles.head(bundles.bundle()), *map(bundles.blob, bundles.BLOBS), extra]
    ended = run("verify", str(bundles.write(tmp_path / "a.tar", entries)))
    assert ended.code == 1
    assert extra[0] in ended.err


def test_a_listed_blob_that_is_not_there_is_found(tmp_path: Path) -> None:
    """A list that promises more than the file holds is not whole."""
    path = bundles.write(tmp_path / "a.tar", [*bundles.head(bundles.bundle()), bundles.blob(bundles.MANIFEST)])
    ended = run("verify", str(path))
    assert ended.code == 1
    assert Digest.of(bundles.LAYER).encoded in ended.err


def test_a_blob_that_has_grown_is_not_read(tmp_path: Path) -> None:
    """An entry of another size than the list says is refused for that, however large it is."""
    name, data = bundles.blob(bundles.LAYER)
    entries = [*bundles.head(bundles.bundle()), bundles.blob(bundles.MANIFEST), (name, data * 2)]
    ended = run("verify", str(bundles.write(tmp_path / "a.tar", entries)))
    assert ended.code == 1
    assert f"{name!r}: {len(data) * 2} bytes where {len(data)} are listed" in ended.err


def test_volumes_are_verified_together_in_any_order(tmp_path: Path) -> None:
    """A blob that was cut over two discs is checked as a whole."""
    first, second = bundles.in_volumes(tmp_path)
    ended = run("verify", str(second), str(first))
    assert ended.code == 0, ended.err


def test_one_disc_of_two_is_right_and_not_all(tmp_path: Path) -> None:
    """What is there is checked, what is not is named, and the exit status does not say done."""
    first, _ = bundles.in_volumes(tmp_path)
    ended = run("verify", str(first))
    assert ended.code == 1
    assert "what was given is right; of 2 volumes these were not given: 2" in ended.out


def test_a_flipped_byte_in_a_part_is_found_on_its_disc(tmp_path: Path) -> None:
    """One disc alone shows that it is damaged."""
    _, second = bundles.in_volumes(tmp_path)
    flip(second, bundles.LAYER[1000:])
    ended = run("verify", str(second))
    assert ended.code == 1
    assert contents.part_name(Digest.of(bundles.LAYER), 2) in ended.err


def test_discs_of_two_bundles_are_not_mixed_up(tmp_path: Path) -> None:
    """Volumes of last week and of this week: wrong usage, both named."""
    first, _ = bundles.in_volumes(tmp_path)
    ended = run("verify", str(first), str(bundles.single(tmp_path / "other.tar")))
    assert ended.code == 2
    assert "v1.tar" in ended.err and "other.tar" in ended.err


def test_an_archive_of_another_tool_is_not_called_verified(tmp_path: Path) -> None:
    """docker save carries nothing to verify; that is said."""
    path = bundles.write(tmp_path / "docker.tar", [("manifest.json", b"[]")])
    ended = run("verify", str(path))
    assert (ended.code, ended.err.count("\n")) == (1, 1)
    assert contents.BUNDLE in ended.err


def test_a_missing_file_is_wrong_usage(tmp_path: Path) -> None:
    """A mistyped name is said to be one."""
    assert run("verify", str(tmp_path / "no.tar")).code == 2


def test_a_foreign_key_is_wrong_usage(tmp_path: Path) -> None:
    """A file that is no key is distinguished from a bundle that is not trusted."""
    assert run("verify", str(bundles.single(tmp_path / "a.tar")), "--trust", "nonsense").code == 2


# -- what other tools read --------------------------------------------------------------------------------------------

CONFIG = b'{"rootfs":{}}'
IMAGE = bundles.manifest(CONFIG, bundles.LAYER)
OTHER = bundles.manifest(bundles.LAYER)


def with_tool_files(tmp_path: Path, name: str, digest: Digest, config: bytes, layer: bytes = bundles.LAYER) -> Path:
    """A bundle whose C{index.json} says that C{name} is C{digest}, and C{manifest.json} what it consists of."""
    blobs = (IMAGE, OTHER, CONFIG, bundles.LAYER)
    listed = bundles.bundle(*map(bundles.entry, blobs), image=IMAGE)
    annotations = {"org.opencontainers.image.ref.name": name, "io.containerd.image.name": name}
    index = {"manifests": [{"digest": str(digest), "annotations": annotations}]}
    docker = [{"Config": bundles.blob(config)[0], "RepoTags": [name], "Layers": [bundles.blob(layer)[0]]}]
    files = [("index.json", json.dumps(index).encode()), ("manifest.json", json.dumps(docker).encode())]
    return bundles.write(tmp_path / "a.tar", [*bundles.head(listed), *files, *map(bundles.blob, blobs)])


def test_files_for_other_tools_may_say_the_same(tmp_path: Path) -> None:
    """A bundle as it is exported is right."""
    ended = run("verify", str(with_tool_files(tmp_path, bundles.NAME, Digest.of(IMAGE), CONFIG)))
    assert ended.code == 0, ended.err


@pytest.mark.parametrize(
    ("name", "digest", "config", "blamed"),
    [
        ("docker.io/library/other:1", Digest.of(IMAGE), CONFIG, "index.json"),
        (bundles.NAME, Digest.of(OTHER), CONFIG, "index.json"),
        (bundles.NAME, Digest.of(b"not inside"), CONFIG, "index.json"),
        (bundles.NAME, Digest.of(IMAGE), bundles.LAYER, "manifest.json"),
        (bundles.NAME, Digest.of(IMAGE), b"not inside", "manifest.json"),
    ],
)
def test_other_tools_find_nothing_else_in_it(
    tmp_path: Path, name: str, digest: Digest, config: bytes, blamed: str
) -> None:
    """No signature covers index.json and manifest.json: what skopeo or docker would read is compared with what is."""
    ended = run("verify", str(with_tool_files(tmp_path, name, digest, config)))
    assert ended.code == 1
    assert blamed in ended.err


def test_docker_finds_no_other_layer_in_it(tmp_path: Path) -> None:
    """A layer that is not in the list is not in the image either."""
    path = with_tool_files(tmp_path, bundles.NAME, Digest.of(IMAGE), CONFIG, layer=b"not inside")
    assert "manifest.json" in run("verify", str(path)).err
