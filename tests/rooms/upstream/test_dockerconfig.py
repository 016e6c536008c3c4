"""Docker's config.json, read as docker reads it."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from appliance import errors
from appliance.flow.disk import InlineThreads
from appliance.upstream.credentials.configured import HUB, DockerConfig, Server, host_of
from appliance.upstream.credentials.helper import CredentialHelper
from appliance.upstream.interfaces import Secret
from appliance.upstream.url import Url
from tests.doubles.deferreds import failing, result


def auth(text: str) -> dict[str, str]:
    return {"auth": base64.b64encode(text.encode()).decode()}


def wrote(folder: Path, config: object) -> Path:
    path = folder / "config.json"
    path.write_text(config if isinstance(config, str) else json.dumps(config))
    return path


def read(folder: Path, config: object, url: str) -> Deferred[Secret]:
    def helper(name: str, source: str) -> CredentialHelper:
        raise AssertionError(f"{source} named {name}")

    file = DockerConfig(wrote(folder, config), Url.parse(url), "up.example", InlineThreads(), helper)
    return Deferred.fromCoroutine(file.read(again=False))


def found(folder: Path, config: object, url: str = "https://registry.example") -> Secret:
    return result(read(folder, config, url))


def fault(folder: Path, config: object, url: str = "https://registry.example") -> BaseException:
    return failing(read(folder, config, url))


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (auth("user:pa:ss"), Secret("", "user", "pa:ss")),
        (auth("üser:pä$+"), Secret("", "üser", "pä$+")),
        (auth("user:pass\0\0"), Secret("", "user", "pass")),
        (auth("user:"), Secret("", "user", "")),
        ({"username": "user", "password": "pass"}, Secret("", "user", "pass")),
        ({"auth": "", "username": "user", "password": "pass"}, Secret("", "user", "pass")),
        ({**auth("user:"), "identitytoken": "tok"}, Secret("", "user", "tok", Secret.Use.IDENTITY)),
        ({"identitytoken": "tok"}, Secret("", "", "tok", Secret.Use.IDENTITY)),
        ({"registrytoken": "tok"}, Secret("", "", "tok", Secret.Use.BEARER)),
        ({**auth("user:pass"), "email": "x@y", "more": [1]}, Secret("", "user", "pass")),
        ({**auth("user:pass"), "username": None}, Secret("", "user", "pass")),
    ],
)
def test_an_entry_is_read_as_docker_wrote_it(tmp_path: Path, entry: object, expected: Secret) -> None:
    """Every form that docker login, podman login and az acr login leave behind."""
    assert found(tmp_path, {"auths": {"registry.example": entry}}) == expected


@pytest.mark.parametrize(
    ("url", "key"),
    [
        ("https://registry.example", "registry.example"),
        ("https://registry.example", "https://registry.example"),
        ("https://registry.example", "https://registry.example/v1/"),
        ("https://registry.example", "http://registry.example/v2/"),
        ("https://registry.example", "registry.example:443"),
        ("https://registry.example/prefix", "registry.example"),
        ("https://REGISTRY.example", "Registry.Example"),
        ("https://registry.example:5000", "registry.example:5000"),
        ("https://registry.example:5000", "https://registry.example:5000/v1/"),
        ("https://[::1]:5000", "[::1]:5000"),
        ("https://registry-1.docker.io", HUB),
        ("https://registry-1.docker.io", "index.docker.io/v1/"),
        ("https://registry-1.docker.io", "docker.io"),
        ("https://index.docker.io", HUB),
    ],
)
def test_a_registry_is_found_under_its_keys(tmp_path: Path, url: str, key: str) -> None:
    """People and tools write a host in many ways; Docker Hub has a name of its own."""
    assert found(tmp_path, {"auths": {key: auth("user:pass")}}, url) == Secret("", "user", "pass")


@pytest.mark.parametrize(
    ("url", "key"),
    [
        ("https://registry.example", "registry.example.evil.example"),
        ("https://registry.example", "evil.example/registry.example"),
        ("https://registry.example:5000", "registry.example"),
        ("https://registry.example", "registry.example:5000"),
        ("https://registry.example", HUB),
        ("https://evil-docker.io", HUB),
    ],
)
def test_another_registrys_password_is_not_taken(tmp_path: Path, url: str, key: str) -> None:
    """One file holds many; the error says what is missing and how it gets there."""
    problem = fault(tmp_path, {"auths": {key: auth("user:c4n4ry")}}, url)
    assert type(problem) is errors.UpstreamDenied
    assert "docker login" in str(problem) and "auth_file" in str(problem)
    assert "c4n4ry" not in str(problem)


def test_the_very_key_goes_before_a_similar_one(tmp_path: Path) -> None:
    """As docker prefers it."""
    entries = {"https://registry.example/v1/": auth("other:x"), "registry.example": auth("user:pass")}
    assert found(tmp_path, {"auths": entries}) == Secret("", "user", "pass")


@pytest.mark.parametrize(
    "config",
    [
        "",
        "c4n4ry",
        '{"auths": ',
        "[]",
        '{"auths": []}',
        "[" * 100_000,
        {"auths": {"registry.example": {"auth": "c4n4ry!"}}},
        {"auths": {"registry.example": auth("c4n4ry")}},
        {"auths": {"registry.example": {"auth": base64.b64encode(b"c4n4ry:\xff").decode()}}},
        {"auths": {"registry.example": {"auth": ["c4n4ry"]}}},
        {"auths": {"registry.example": "c4n4ry"}},
        {"auths": {"registry.example": {}}},
        {"auths": {}},
        {},
    ],
)
def test_what_cannot_be_read_is_named_and_not_repeated(tmp_path: Path, config: object) -> None:
    """The file may hold secrets where it is broken, too."""
    problem = fault(tmp_path, config)
    assert type(problem) is errors.UpstreamDenied
    assert f"auth_file {tmp_path}/config.json" in str(problem)
    assert "c4n4ry" not in str(problem)


def test_another_registrys_broken_entry_does_not_matter(tmp_path: Path) -> None:
    """It is the one of another registry."""
    config = {"auths": {"other.example": 7, "registry.example": auth("user:pass")}, "HttpHeaders": {"x": 1}}
    assert found(tmp_path, config) == Secret("", "user", "pass")


@given(st.text(st.characters(blacklist_characters=":", blacklist_categories=["Cs"])), st.text(min_size=1))
def test_user_and_password_come_back_whatever_they_hold(username: str, password: str) -> None:
    """All but zeros at the ends of the password, which docker takes off."""
    import tempfile

    password = password.encode("utf-8", "ignore").decode().strip("\0") or "x"
    with tempfile.TemporaryDirectory() as folder:
        config = {"auths": {"registry.example": auth(f"{username}:{password}")}}
        assert found(Path(folder), config) == Secret("", username, password)


@given(st.text())
def test_a_key_of_any_kind_has_a_host(key: str) -> None:
    """Reading another's key never fails, and means this registry only when it is that host."""
    assert "/" not in host_of(key)
    assert Server.at(Url.parse("https://registry.example")).entry({key: 1}) == (
        1 if host_of(key) in ("registry.example", "registry.example:443") else None
    )
