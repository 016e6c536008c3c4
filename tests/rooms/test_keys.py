"""Every key: one field, one line of the shipped file with its comment and default, named in the pages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec
import pytest

from appliance import config, fields
from appliance.errors import ConfigError
from appliance.explain import describe
from appliance.settings import (
    AdminSettings,
    BundleSettings,
    ClientRateSettings,
    ConnectionSettings,
    ListenSettings,
    PrefetchSettings,
    RetentionRules,
    RetentionSettings,
    ScrubSettings,
    Settings,
    StaleSettings,
    UpstreamSettings,
)
from appliance.yamltree import Node, tree

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "etc" / "pullcache.yaml"
LINES = SHIPPED.read_text().splitlines()
# Sections by where the shipped file shows them whole.
SECTIONS: dict[str, type[msgspec.Struct]] = {
    "": Settings,
    "listen[0]": ListenSettings,
    "admin": AdminSettings,
    "connections": ConnectionSettings,
    "client_rate": ClientRateSettings,
    "bundles": BundleSettings,
    "retention": RetentionSettings,
    "scrub": ScrubSettings,
    "upstreams.docker.io": UpstreamSettings,
    "upstreams.docker.io.serve_stale": StaleSettings,
    "upstreams.docker.io.prefetch": PrefetchSettings,
    "upstreams.docker.io.retention": RetentionRules,
}


def section_nodes(node: Node) -> Iterator[Node]:
    """The mappings of the shipped file."""
    if isinstance(node.value, dict):
        yield node
    below = node.value.values() if isinstance(node.value, dict) else node.value if isinstance(node.value, list) else ()
    for each in below:
        yield from section_nodes(each)


NODES = {node.path: node for node in section_nodes(tree(SHIPPED.read_text(), str(SHIPPED)))}
KEYS = [
    (where, field)
    for where, table in SECTIONS.items()
    for field in msgspec.structs.fields(table)
    if (table, field.name) != (UpstreamSettings, "name")
]
VALUES = [
    (where, field)
    for where, field in KEYS
    if f"{where}.{field.name}".strip(".") not in (*SECTIONS, "listen", "upstreams")
]


def name_of(key: object) -> str:
    return key or "(top)" if isinstance(key, str) else getattr(key, "encode_name", "")


def line_of(where: str, key: str) -> int:
    """The number of the line, from 0, that shows a key."""
    return NODES[where].mapping()[key].line - 1


def group_of(line: int) -> tuple[int, int]:
    """Where the comment ends that explains a line, and how many keys it explains before that one."""
    before = 0
    while LINES[line - 1 - before].strip() and not LINES[line - 1 - before].lstrip().startswith("#"):
        before += 1
    return line - before, before


def default_in_words(where: str, key: str) -> str | None:
    """What the nearest comment above a key says of its default; C{None} for none."""
    comment, before = group_of(line_of(where, key))
    words = " ".join(line.strip(" #") for line in LINES[:comment] if line.lstrip().startswith("#"))
    last = re.findall(r"No default|Defaults?: (\S+(?: and \S+)?)", words)[-1]
    return last.split(" and ")[before if " and " in last else 0].rstrip(".,;") or None


def read(where: str, text: str) -> msgspec.Struct:
    """A section with one key that is written, and what it cannot be without."""
    needed, name = ("url: https://h\n", {"name": "a"}) if where == "upstreams.docker.io" else ("", {})
    return config.section(tree(needed + text, str(SHIPPED)), SECTIONS[where], **name)


# -- the shipped file -----------------------------------------------------------------------------------------------


def test_the_shipped_file_is_in_force_as_its_comments_say() -> None:
    """It loads, holds the public registries, and sends names without a prefix to Docker Hub."""
    settings = config.load(SHIPPED)
    assert list(settings.upstreams) == [
        "docker.io",
        "ghcr.io",
        "quay.io",
        "gcr.io",
        "registry.k8s.io",
        "mcr.microsoft.com",
        "public.ecr.aws",
    ]
    assert settings.listen[0].default_upstream == "docker.io"
    kinds = ["dockerhub", "ghcr", "quay", "gcr", "k8s", "mcr", "ecr-public"]
    assert [upstream.kind for upstream in settings.upstreams.values()] == kinds
    assert settings.upstream_for("dockerhub") == "docker.io"
    # On loopback anything may be ordered without a login, which is said, and only that.
    assert describe(settings).count("warning: ") == 1 and "asks for no login: whoever" in describe(settings)


def test_the_shipped_defaults_are_the_defaults() -> None:
    """Leaving out what the file shows changes nothing, but for Docker Hub's own needs."""
    shipped = config.load(SHIPPED)
    bare = config.parse("upstreams: {docker.io: {url: 'https://registry-1.docker.io'}}", str(SHIPPED))
    assert (
        msgspec.structs.replace(shipped.upstreams["docker.io"], kind="distribution", aliases=())
        == bare.upstreams["docker.io"]
    )
    assert msgspec.structs.replace(shipped, listen=bare.listen, upstreams=bare.upstreams) == bare


@pytest.mark.parametrize("where", SECTIONS)
def test_the_shipped_file_shows_every_key(where: str) -> None:
    """No key has to be looked up elsewhere."""
    assert set(NODES[where].mapping()) == {field.encode_name for at, field in KEYS if at == where}


def test_no_section_is_overlooked() -> None:
    """The rules here are about all of them."""
    shown = {path for path, node in NODES.items() if node.value and not path.startswith("upstreams")}
    assert shown | {"upstreams.docker.io"} <= set(SECTIONS)


@pytest.mark.parametrize(("where", "field"), KEYS, ids=name_of)
def test_every_key_has_its_comment(where: str, field: msgspec.structs.FieldInfo) -> None:
    """Above it, or above the keys that it goes with."""
    if where != "upstreams.docker.io" or field.name != "urls":
        comment, _ = group_of(line_of(where, field.encode_name))
        assert LINES[comment - 1].lstrip().startswith("#")


@pytest.mark.parametrize(("where", "field"), VALUES, ids=name_of)
def test_the_default_in_the_comment_is_the_one_of_the_table(where: str, field: msgspec.structs.FieldInfo) -> None:
    """Written in place of the key's value it changes nothing."""
    written = default_in_words(where, field.encode_name)
    if written is None:
        assert field.encode_name in ("url", "endpoint")
    else:
        default = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
        assert getattr(read(where, f"{field.encode_name}: {written}"), field.name) == default


# -- the pages ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("where", "field"), KEYS, ids=name_of)
def test_the_pages_name_every_key(where: str, field: msgspec.structs.FieldInfo) -> None:
    """In docs/configure.md, and those of bundles in docs/bundles.md."""
    page = ROOT / "docs" / ("bundles.md" if where == "bundles" else "configure.md")
    code = re.findall(r"`([^`]+)`", page.read_text())
    assert any(re.search(rf"\b{field.encode_name}\b", each) for each in code)


def test_the_defaults_in_the_pages_are_those_of_the_table() -> None:
    """Where a key is followed by its default: C{key} (default)."""
    fields_by_key = {field.encode_name: (where, field) for where, field in VALUES}
    page = (ROOT / "docs" / "configure.md").read_text()
    found = re.findall(r"`(\w+)`(?: \(|, )(\d\w*)\)", page)
    for key, written in found:
        where, field = fields_by_key[key]
        assert getattr(read(where, f"{key}: {written}"), field.name) == field.default, key
    assert len(found) >= 7


# -- a new key ------------------------------------------------------------------------------------------------------


class Newer(UpstreamSettings, frozen=True, kw_only=True):
    """An upstream with two keys more, as a newcomer may add them."""

    tries: Annotated[int, fields.whole(1, 9)] = 3
    pause_after: fields.Duration | None = None


def newer(text: str) -> Newer:
    return config.section(tree(f"url: https://h\n{text}", "/etc/p.yaml"), Newer, name="a")


def test_a_new_key_is_one_field() -> None:
    """Its type reads it and names what is wrong, and --check shows it when it is not the default."""
    assert (newer("").tries, newer("").pause_after) == (3, None)
    assert (newer("tries: 4").tries, newer("pause_after: 1m").pause_after) == (4, 60.0)
    with pytest.raises(ConfigError, match=r"^/etc/p.yaml: line 2: tries: '10' is no whole number from 1 to 9$"):
        newer("tries: 10")
    with pytest.raises(ConfigError, match="did you mean tries"):
        newer("trise: 4")
    words = describe(Settings(upstreams={"a": newer("tries: 4")}))
    assert "\n  tries: 4\n" in words and "pause after" not in words
