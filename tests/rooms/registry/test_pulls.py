"""What the registry tells of its clients: what they pulled, by whichever lane, and what they run on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from appliance.admin.metrics import Metrics
from appliance.oci.digest import Digest
from appliance.registry.listener import Listener
from appliance.registry.request import platform_of
from appliance.settings import ListenSettings
from tests.doubles.appliance import HUB, NGINX, Appliance
from tests.doubles.deferreds import result
from tests.doubles.images import image


class Front:
    """A listener in front of an appliance, and one connection to it."""

    def __init__(self, site: Appliance) -> None:
        listen = ListenSettings(default_upstream=HUB)
        self.listener = Listener(site.through, site.settings, listen, Metrics(site.clock, None), site.audit, site.clock)
        self.connection = self.listener.site.buildProtocol(None)  # type: ignore[arg-type]
        self.transport = StringTransport()
        self.connection.makeConnection(self.transport)

    def ask(self, path: str, method: str = "GET", agent: str = "x", more: str = "") -> int:
        """The status of the answer."""
        self.transport.clear()
        head = f"{method} /v2/{path} HTTP/1.1\r\nHost: a\r\nUser-Agent: {agent}\r\n{more}\r\n"
        self.connection.dataReceived(head.encode())
        return int(self.transport.value().split(b" ")[1])

    def close(self) -> None:
        self.connection.connectionLost(Failure(ConnectionDone()))


def test_every_pull_is_counted_whichever_lane_it_takes() -> None:
    """The first goes through the cache, the others are prepared answers; a look at the headers is none."""
    site = Appliance()
    content = image()
    site.hold(content, "1")
    repository = result(site.repositories.get(HUB, NGINX))
    repository.tag("1", Digest.parse(content.digest), site.clock.seconds())
    front = Front(site)
    for _ in range(5):
        assert front.ask("library/nginx/manifests/1") == 200
        assert front.ask("nginx/manifests/1") == 200
        assert front.ask("nginx/manifests/1", "HEAD") == 200
        assert front.ask(f"nginx/manifests/{content.digest}") == 200
        assert front.ask(f"nginx/blobs/{content.layers[1].digest}") == 200
    early = site.usage.of(HUB, NGINX, "1")
    assert early is not None and early.pulls < 10
    for pull in front.listener.take_pulls():
        site.through.note_pulls(*pull)
    uses = [site.usage.of(HUB, NGINX, reference) for reference in ("1", content.digest)]
    assert [use and use.pulls for use in uses] == [10, 5]
    assert len(site.usage) == 2 and front.listener.take_pulls() == []
    front.close()


def test_an_answer_that_is_made_anew_goes_on_counting() -> None:
    """A client that takes both ways by turns has no answer kept beside the one in use until its pulls are taken."""
    site = Appliance()
    content = image()
    site.hold(content, "1")
    front = Front(site)
    path = f"nginx/manifests/{content.digest}"
    for _ in range(50):
        assert front.ask(path, more="Content-Length: 0\r\n") == 200
        assert front.ask(path) == 200
    assert [(str(pull[0]), *pull[1:]) for pull in front.listener.take_pulls()] == [
        (f"{HUB}/{NGINX}", content.digest, 50)
    ]
    front.close()


def test_a_client_s_platform_goes_into_the_wants() -> None:
    """Of the manifest and of the layer it asked for."""
    site = Appliance(offline=True)
    front = Front(site)
    agent = "docker/29.0 go/go1.25 git-commit/1 kernel/6.1 os/linux arch/arm64 UpstreamClient(Docker-Client/29.0)"
    assert front.ask("nginx/manifests/1", agent=agent) == 404
    assert front.ask(f"nginx/blobs/{Digest.of(b'x')}", agent=agent) == 404
    assert front.ask("nginx/manifests/2", agent="containerd/v2.1") == 404
    assert [each.platform for each in site.wants.snapshot()] == ["linux/arm64", "linux/arm64", None]
    front.close()


def test_prepared_answers_are_forgotten_on_request() -> None:
    """After an import a tag may mean something else."""
    site = Appliance()
    content = image()
    site.hold(content, "1")
    front = Front(site)
    for _ in range(3):
        front.ask(f"nginx/manifests/{content.digest}")
    front.listener.take_pulls()
    front.listener.forget_answers()
    front.ask(f"nginx/manifests/{content.digest}")
    assert front.listener.take_pulls() == []
    front.close()


@pytest.mark.parametrize(
    ("agent", "platform"),
    [
        ("docker/29.0 go/go1.25 os/linux arch/arm64 UpstreamClient(Docker-Client/29.0 \\(linux\\))", "linux/arm64"),
        ("docker/20.10 os/windows arch/amd64", "windows/amd64"),
        ("Docker-Client/29 (os/linux arch/s390x)", "linux/s390x"),
        ("containerd/v2.1.0", None),
        ("containers/5.24.1 (github.com/containers/image)", None),
        ("buildkit/v0.20", None),
        ("os/linux", None),
        ("os/LINUX arch/amd64", None),
        (f"os/{'x' * 99} arch/amd64", None),
        ("", None),
        (None, None),
    ],
)
def test_a_platform_is_taken_from_what_a_client_says_of_itself(agent: str | None, platform: str | None) -> None:
    """docker says it; most do not, and nothing is guessed."""
    assert platform_of(agent) == platform


@given(st.text())
def test_whatever_a_client_says_the_platform_is_short_and_plain(agent: str) -> None:
    """It goes into a document that people read."""
    found = platform_of(f"x {agent} os/linux arch/{agent} y")
    assert found is None or (len(found) <= 41 and found.replace("/", "").replace("_", "").isalnum())
