"""From the configuration to an upstream: kinds and where they are found, what is refused at the start."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import twisted.plugins
from twisted.internet.defer import Deferred
from twisted.internet.testing import MemoryReactorClock
from twisted.plugin import getPlugins
from zope.interface.verify import verifyObject

from appliance.errors import ConfigError, Offline
from appliance.flow.disk import InlineThreads
from appliance.oci.digest import Digest
from appliance.settings import Settings, UpstreamSettings
from appliance.upstream.client import RegistryClient
from appliance.upstream.concurrency import LimitedUpstream
from appliance.upstream.interfaces import IAdapter, IUpstream, IUpstreamObserver
from appliance.upstream.kinds import ecr
from appliance.upstream.table import adapter_of, check_upstreams, offline_upstream_for, upstream_for
from tests.doubles.deferreds import failing
from tests.rooms.upstream.net import Counting, SilentObserver

KINDS = "acr distribution dockerhub ecr ecr-public gcr ghcr gitlab harbor k8s mcr quay".split()
ECR = "https://123456789012.dkr.ecr.eu-west-1.amazonaws.com"


def settings(**more: Any) -> UpstreamSettings:
    return UpstreamSettings(**{"name": "docker.io", "urls": ("https://registry-1.docker.io",), **more})


def whole(**more: Any) -> Settings:
    upstream = settings(**more)
    return Settings(upstreams={upstream.name: upstream})


def made(upstream: UpstreamSettings, environ: dict[str, str] | None = None) -> IUpstream:
    return upstream_for(upstream, MemoryReactorClock(), SilentObserver(), InlineThreads(), environ=environ or {})


# -- kinds ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_can_be_made(kind: str) -> None:
    """Online and offline they map names alike, and making one sends nothing."""
    named = settings(kind=kind, urls=(ECR,)) if kind == "ecr" else settings(kind=kind)
    for upstream in (made(named), offline_upstream_for(named)):
        assert verifyObject(IUpstream, upstream)
        assert upstream.name == "docker.io"
        assert upstream.repository("nginx") == ("library/nginx" if kind == "dockerhub" else "nginx")


def test_the_kinds_are_those_that_are_promised() -> None:
    """No more and no less come with pullcache."""
    assert sorted(adapter.kind for adapter in getPlugins(IAdapter)) == KINDS


def test_the_refusal_of_an_unknown_kind_names_the_known_ones() -> None:
    """A slip of the pen is corrected without the documentation."""
    with pytest.raises(ConfigError, match=r"^upstreams\.docker\.io\.kind: 'dokcerhub' is not known; acr, distr.*quay"):
        adapter_of(settings(kind="dokcerhub"))


ADAPTER = """
from appliance.upstream.{path} import Standard

class Ours(Standard):
    kind = "{kind}"

    def repository(self, name: str) -> str:
        return "mirror/" + name

ours = Ours()
"""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Path]:
    """A folder of plugins of the site's own, on the plugin path."""
    folder = tmp_path / "twisted" / "plugins"
    folder.mkdir(parents=True)
    twisted.plugins.__path__.insert(0, str(folder))
    yield folder
    twisted.plugins.__path__.remove(str(folder))
    for path in folder.glob("*.py"):
        sys.modules.pop(f"twisted.plugins.{path.stem}", None)


@pytest.mark.parametrize("path", ["kinds.standard", "adapters.standard"])
def test_a_site_can_drop_in_an_adapter_of_its_own(site: Path, path: str) -> None:
    """A file in a folder is all: it is found, named by its kind, and used; so is one written before the move."""
    (site / "site_adapter.py").write_text(ADAPTER.format(kind="ours", path=path))
    check_upstreams(whole(kind="ours"), environ={})
    assert made(settings(kind="ours")).repository("nginx") == "mirror/nginx"


def test_a_kind_claimed_twice_is_refused_where_it_is_used(site: Path) -> None:
    """Both modules are named; who does not use the kind does not care."""
    (site / "site_adapter_two.py").write_text(ADAPTER.format(kind="harbor", path="kinds.standard"))
    with pytest.raises(ConfigError, match=r"kind: 'harbor' is claimed by the plugins .*") as caught:
        check_upstreams(whole(kind="harbor"), environ={})
    assert "twisted.plugins.site_adapter_two" in str(caught.value)
    assert "twisted.plugins.pullcache_adapters" in str(caught.value)
    check_upstreams(whole(kind="dockerhub"), environ={})


def test_a_plugin_that_cannot_be_imported_stops_no_other(site: Path, logged_errors: list[dict[str, Any]]) -> None:
    """It stands in the log."""
    (site / "site_broken.py").write_text("raise ImportError('no such thing')\n")
    check_upstreams(whole(kind="dockerhub"), environ={})
    assert all("no such thing" in str(event["failure"].value) for event in logged_errors)
    assert logged_errors
    logged_errors.clear()


LACKING = """
from twisted.plugin import IPlugin
from zope.interface import implementer
from appliance.upstream.interfaces import IAdapter

@implementer(IAdapter, IPlugin)
class Half:
    kind = "half"

@implementer(IAdapter, IPlugin)
class Nothing:
    pass

half, nothing = Half(), Nothing()
"""


def test_an_adapter_that_lacks_something_is_refused_where_it_is_used(site: Path) -> None:
    """The module is named, and what it lacks."""
    (site / "site_half.py").write_text(LACKING)
    check_upstreams(whole(kind="dockerhub"), environ={})
    with pytest.raises(ConfigError, match=r"the plugin twisted\.plugins\.site_half cannot be used: .*auth_hosts"):
        check_upstreams(whole(kind="half"), environ={})


# -- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "key"),
    [
        ({"kind": "nothing"}, "kind"),
        ({"urls": ("ftp://x",)}, "url"),
        ({"kind": "ecr"}, "url"),
        ({"credentials": "aws"}, "credentials"),
        ({"kind": "dockerhub", "token_file": Path("/t")}, "token_file"),
        ({"ca_file": Path("/nowhere/ca.pem")}, "ca_file"),
        ({"client_cert": Path("/nowhere/cert.pem")}, "client_cert"),
        ({"proxy": "socks5://proxy:1080"}, "proxy"),
    ],
)
def test_what_cannot_be_made_is_named_at_the_start(wrong: dict[str, Any], key: str) -> None:
    """With the file and the key's path; making it says the same."""
    with pytest.raises(ConfigError, match=rf"^/etc/pullcache\.yaml: upstreams\.docker\.io\.{key}: "):
        check_upstreams(whole(**wrong), "/etc/pullcache.yaml", environ={})
    with pytest.raises(ConfigError, match=rf"^upstreams\.docker\.io\.{key}: "):
        made(settings(**wrong))


def test_a_proxy_of_the_environment_is_checked_too() -> None:
    """By its variable's name."""
    with pytest.raises(ConfigError, match="^HTTPS_PROXY: "):
        check_upstreams(whole(), environ={"HTTPS_PROXY": "socks5://proxy:1080"})


def test_an_upstream_that_is_offline_needs_no_more_than_its_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sealed site starts without botocore, without the CA of a network it does not have."""
    monkeypatch.setattr(ecr, "find_spec", lambda name: None)
    wanting = {"kind": "ecr", "urls": (ECR,), "ca_file": Path("/nowhere/ca.pem")}
    check_upstreams(whole(**wanting, offline=True))
    sealed = whole(**wanting)
    check_upstreams(Settings(offline=True, upstreams=sealed.upstreams))
    with pytest.raises(ConfigError, match=r"pullcache\[ecr\]"):
        check_upstreams(sealed)
    with pytest.raises(ConfigError, match="is not known"):
        check_upstreams(whole(kind="nothing", offline=True))


# -- what is made of what -------------------------------------------------------------------------------------------


def test_a_limit_on_connections_wraps_the_upstream() -> None:
    """And nothing does without one."""
    assert isinstance(made(settings()), RegistryClient)
    assert isinstance(made(settings(max_connections=4)), LimitedUpstream)


def test_files_of_credentials_are_read_when_they_are_needed(tmp_path: Path) -> None:
    """A start does not fail for a file that is written later."""
    made(settings(token_file=tmp_path / "token"))
    made(settings(kind="acr", token_file=tmp_path / "token"))


ASKED = """
from appliance.upstream.kinds.standard import Standard

class Asking(Standard):
    kind = "asking"
    given = None

    def credentials(self, settings, given):
        self.given = given

asking = Asking()
"""


def test_an_adapter_is_asked_for_credentials_with_what_it_may_use(site: Path) -> None:
    """The host it is about, and the environment of the process."""
    (site / "site_asking.py").write_text(ASKED)
    made(settings(kind="asking", urls=("https://Registry.example:5000/path",)), {"HOME": "/home/me"})
    asking: Any = adapter_of(settings(kind="asking"))
    assert (asking.given.upstream, asking.given.host) == ("docker.io", "registry.example")
    assert asking.given.environ["HOME"] == "/home/me"
    assert "/home/me" not in repr(asking.given)


def test_an_adapter_gives_the_credentials_of_each_host_on_its_own(site: Path) -> None:
    """An exchange at one registry brings what is shown to that registry; two paths of a host are one."""
    (site / "site_asking_each.py").write_text(ASKED.replace('"asking"', '"each"').replace("given = None", "hosts = []"))
    file = site / "site_asking_each.py"
    file.write_text(file.read_text().replace("self.given = given", "self.hosts.append(given.host)"))
    made(settings(kind="each", urls=("https://a.example/x", "https://b.example", "https://a.example/y")))
    asking: Any = adapter_of(settings(kind="each"))
    assert sorted(asking.hosts) == ["a.example", "b.example"]


def test_offline_no_question_is_asked() -> None:
    """Everything is answered at once, with what is missing."""
    upstream = offline_upstream_for(settings(kind="dockerhub"))
    digest = Digest.of(b"")
    questions: list[tuple[Deferred[Any], str]] = [
        (upstream.head("library/nginx", "latest"), "library/nginx latest"),
        (upstream.manifest("library/nginx", digest), str(digest)),
        (upstream.blob("library/nginx", digest), str(digest)),
        (upstream.blob_size("library/nginx", digest), str(digest)),
        (upstream.tags("library/nginx"), "tags of library/nginx"),
    ]
    for question, named in questions:
        reason = failing(question)
        assert isinstance(reason, Offline)
        assert named in str(reason)
        assert "docker.io" in str(reason)


def test_observers_are_observers() -> None:
    """What counts implements all of it."""
    assert verifyObject(IUpstreamObserver, SilentObserver())
    assert verifyObject(IUpstreamObserver, Counting())
