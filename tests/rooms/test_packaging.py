"""What an installer, an operator and a contributor find: the plugin, the scripts, the files of etc/."""

from __future__ import annotations

import ast
import base64
import configparser
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from appliance import config
from appliance.settings import Settings
from appliance.units import duration

ROOT = Path(__file__).parents[2]
ADDRESS = "pullcache.example:5000"


def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def run(*command: str | Path, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120
    )


# -- the package ----------------------------------------------------------------------------------------------------


def test_every_package_is_installed() -> None:
    """A room that setup.cfg forgets works in the checkout and is missing once installed."""
    found = {".".join(path.parent.relative_to(ROOT).parts) for path in ROOT.glob("appliance/**/__init__.py")}
    assert set(setup_cfg()["options"]["packages"].split()) == found | {"twisted.plugins"}


def test_an_install_leaves_twisted_whole() -> None:
    """An __init__.py beside the plugin would replace Twisted's own, and an uninstall would delete that."""
    assert not (ROOT / "plugins" / "__init__.py").exists()


def test_no_older_twisted_will_do() -> None:
    """
    Before 26.4 a resolver could be made to hang (CVE-2026-42304), before 24.7 pipelined requests were answered out of
    turn (CVE-2024-41671) and redirects could hold a script (CVE-2024-41810), which we do not make anyway.
    """
    needed = re.search(r"^Twisted\[tls\] >= ([0-9]+)\.([0-9]+)$", setup_cfg()["options"]["install_requires"], re.M)
    assert needed is not None and (int(needed[1]), int(needed[2])) >= (26, 4)
    sources = [path.read_text() for path in (ROOT / "appliance").rglob("*.py")]
    assert not any("redirectTo" in source or "twisted.names" in source for source in sources)


def test_listing_the_command_imports_nothing_of_ours() -> None:
    """The reactor is chosen after the plugins are listed: the file imports Twisted's ServiceMaker and no more."""
    tree = ast.parse((ROOT / "plugins" / "pullcache_plugin.py").read_text())
    imported = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert imported == ["from twisted.application.service import ServiceMaker"]


@pytest.mark.process
def test_listing_the_command_chooses_no_reactor() -> None:
    """twistd --reactor=poll works on the first start too."""
    code = "import sys, pullcache_plugin; print({'klein', 'twisted.internet.reactor'} & set(sys.modules))"
    assert run(sys.executable, "-c", code, PYTHONPATH=str(ROOT / "plugins")).stdout == "set()\n"


@pytest.mark.process
def test_listing_the_adapters_chooses_no_reactor() -> None:
    """They are listed with the command, and stay as light: AWS's library is imported when it is used."""
    heavy = "{'klein', 'botocore', 'twisted.internet.reactor'}"
    code = f"import sys, pullcache_adapters; print({heavy} & set(sys.modules), pullcache_adapters.ecr.kind)"
    path = os.pathsep.join((str(ROOT), str(ROOT / "plugins")))
    assert run(sys.executable, "-c", code, PYTHONPATH=path).stdout == "set() ecr\n"


@pytest.mark.process
def test_a_checkout_knows_the_command(tmp_path: Path) -> None:
    """python twistd-plugin.py works from any folder, with nothing installed."""
    result = run(sys.executable, ROOT / "twistd-plugin.py", "--help", cwd=tmp_path)
    assert result.returncode == 0
    assert [line.split()[0] for line in result.stdout.splitlines() if "A pull-through OCI" in line] == ["pullcache"]


# -- the scripts ----------------------------------------------------------------------------------------------------


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout whose environment is made and current, and whose python prints its arguments, one a line."""
    root = tmp_path / "check out"
    shutil.copytree(ROOT / "scripts", root / "scripts")
    (root / ".venv" / "bin").mkdir(parents=True)
    for copy in ("setup.cfg", ".venv/installed", ".venv/installed-test"):
        shutil.copy(ROOT / "setup.cfg", root / copy)
    python = root / ".venv" / "bin" / "python"
    python.write_text('#!/bin/sh\npwd\nprintf "%s\\n" "$@"\nif [ "$2" = pip ]; then exit "${PIP_EXIT:-0}"; fi\n')
    python.chmod(0o755)
    return root


def started(checkout: Path, *options: str) -> list[str]:
    result = run(checkout / "scripts" / "run", *options, cwd=checkout.parent)
    assert (result.returncode, result.stderr) == (0, "")
    where, program, *arguments = result.stdout.splitlines()
    assert (where, program) == (str(checkout.parent), str(checkout / "twistd-plugin.py"))
    return arguments


@pytest.mark.process
def test_run_takes_the_shipped_configuration_and_a_store_of_the_checkout(checkout: Path) -> None:
    """A fresh clone runs without a word of configuration, as an ordinary user."""
    assert started(checkout, "--offline", "--listen", "tcp:port=5000") == [
        *("--nodaemon", "--pidfile=", "pullcache"),
        *("--config", f"{checkout}/etc/pullcache.yaml", "--store", f"{checkout}/var"),
        *("--offline", "--listen", "tcp:port=5000"),
    ]


@pytest.mark.process
@pytest.mark.parametrize("options", [["--config", "own file.yaml"], ["--config=own.yaml", "--check"], ["--conf", "x"]])
def test_run_takes_my_configuration_as_it_is(checkout: Path, options: list[str]) -> None:
    """With --config nothing is added, and a relative path is relative to where I am."""
    assert started(checkout, *options) == ["--nodaemon", "--pidfile=", "pullcache", *options]


@pytest.mark.process
def test_run_installs_when_setup_cfg_has_changed(checkout: Path) -> None:
    """What a pull of the repository adds to the requirements is there at the next start, and asked for once."""
    (checkout / ".venv" / "installed").write_text("older")
    first = run(checkout / "scripts" / "run")
    assert first.stderr.splitlines()[1:] == [
        *("-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--editable", str(checkout)),
    ]
    assert run(checkout / "scripts" / "run").stderr == ""


@pytest.mark.process
def test_run_starts_where_nothing_can_be_installed(checkout: Path) -> None:
    """Without a network the environment of yesterday does."""
    (checkout / ".venv" / "installed").write_text("older")
    result = run(checkout / "scripts" / "run", PIP_EXIT="1")
    assert "going on with what" in result.stderr
    assert "pullcache" in result.stdout.splitlines()


@pytest.mark.process
def test_test_hands_its_arguments_to_pytest(checkout: Path) -> None:
    """And asks it to name what is left out."""
    result = run(checkout / "scripts" / "test", "-k", "a or b")
    assert result.stdout.splitlines() == [
        *(str(checkout), "-m", "pytest", "-rs", "--no-fold-skipped", "-k", "a or b"),
    ]


# -- what holds for every test --------------------------------------------------------------------------------------

LEAVING = """
import pytest
from twisted.internet import reactor
from twisted.internet.defer import Deferred, fail
from twisted.python import log
from twisted.trial.unittest import SynchronousTestCase

def test_tidy():
    pass

def test_drops_a_failure():
    fail(ZeroDivisionError())

def test_leaves_a_call():
    reactor.callLater(1000, print)

def test_expects_an_error(logged_errors):
    log.err(ZeroDivisionError())
    logged_errors.clear()

class FlushTests(SynchronousTestCase):
    def test_flushes(self):
        log.err(ZeroDivisionError())
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

@pytest.mark.real_client
def test_client():
    pytest.skip("no skopeo here")

def test_other():
    pytest.skip("not today")
"""


def outcomes(tmp_path: Path, **environment: str) -> dict[str, int]:
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path)
    (tmp_path / "test_leaving.py").write_text(LEAVING)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = real_client: x\n")
    result = run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=tmp_path, **environment)
    counts = result.stdout.splitlines()[-1].split(" in ")[0].split(", ")
    return {what.rstrip("s"): int(count) for count, what in (part.split() for part in counts)}


@pytest.mark.process
def test_a_test_that_leaves_something_behind_is_an_error(tmp_path: Path) -> None:
    """A dropped failure and a forgotten call are seen; what is expected or flushed is not held against a test."""
    assert outcomes(tmp_path, PULLCACHE_REQUIRE_CLIENTS="") == {"passed": 5, "skipped": 2, "error": 2}


@pytest.mark.process
def test_where_clients_are_required_none_is_left_out(tmp_path: Path) -> None:
    """PULLCACHE_REQUIRE_CLIENTS=1 turns a skipped real client into a failure, and no other skip."""
    assert outcomes(tmp_path, PULLCACHE_REQUIRE_CLIENTS="1") == {"passed": 5, "failed": 1, "skipped": 1, "error": 2}


# -- etc/ -----------------------------------------------------------------------------------------------------------


def test_the_service_gives_transfers_their_grace() -> None:
    """systemd kills later than the appliance stops by itself, and a reload reaches it."""
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(ROOT / "etc" / "pullcache.service")
    service = unit["Service"]
    assert duration(service["TimeoutStopSec"]) > Settings().shutdown_grace
    assert service["ExecReload"] == "/bin/kill -HUP $MAINPID"
    start = service["ExecStart"]
    assert start.endswith("/twistd --nodaemon --pidfile= pullcache --config /etc/pullcache/pullcache.yaml")
    assert f"/var/lib/{service['StateDirectory']}" == str(Settings().store)


@pytest.mark.process
@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
def test_systemd_understands_the_service(tmp_path: Path) -> None:
    """No directive is misspelt; user and program stand in for those that only an installation has."""
    text = (ROOT / "etc" / "pullcache.service").read_text()
    text = text.replace("/opt/pullcache/bin/twistd", "/bin/true").replace("=pullcache\n", "=daemon\n")
    (tmp_path / "pullcache.service").write_text(text)
    result = run("systemd-analyze", "verify", "--man=no", tmp_path / "pullcache.service")
    assert (result.returncode, result.stderr) == (0, "")


def test_the_client_files_point_at_the_cache() -> None:
    """Each is well formed, and the path form carries the upstream's name where the client sends no ns."""
    clients = ROOT / "etc" / "clients"
    hosts = tomllib.loads((clients / "containerd" / "hosts.toml").read_text())
    assert hosts["host"] == {f"http://{ADDRESS}": {"capabilities": ["pull", "resolve"]}}
    registries = tomllib.loads((clients / "podman" / "registries.conf").read_text())["registry"]
    mirrors = {registry["prefix"]: registry["mirror"] for registry in registries if "mirror" in registry}
    shipped = config.load(ROOT / "etc" / "pullcache.yaml").upstreams
    assert mirrors == {name: [{"location": f"{ADDRESS}/{name}", "insecure": True}] for name in shipped}
    daemon = json.loads((clients / "docker" / "daemon.json").read_text())
    assert daemon == {"registry-mirrors": [f"http://{ADDRESS}"], "insecure-registries": [ADDRESS]}
    k3s = yaml.safe_load((clients / "k3s" / "registries.yaml").read_text())
    assert k3s == {"mirrors": {"*": {"endpoint": [f"http://{ADDRESS}"]}}}


def test_the_client_files_with_tls_point_at_the_cache_alone() -> None:
    """Each is well formed; the host and the server after it are given the same, so that a refusal reads the same."""
    clients, address = ROOT / "etc" / "clients", "pullcache.example:5443"
    hosts = tomllib.loads((clients / "containerd" / "hosts-login.toml").read_text())
    assert hosts.pop("host") == {(server := hosts.pop("server")): hosts}
    assert server == f"https://{address}"
    assert base64.b64decode(hosts["header"]["Authorization"][0].removeprefix("Basic ")) == b"node:change-me"
    registries = tomllib.loads((clients / "podman" / "registries-login.conf").read_text())["registry"]
    shipped = config.load(ROOT / "etc" / "pullcache.yaml").upstreams
    assert registries == [{"prefix": name, "location": f"{address}/{name}"} for name in shipped]
    k3s = yaml.safe_load((clients / "k3s" / "registries-login.yaml").read_text())
    assert k3s["mirrors"] == {"*": {"endpoint": [f"https://{address}"]}}
    assert {name: set(each) for name, each in k3s["configs"].items()} == {address: {"auth", "tls"}}
