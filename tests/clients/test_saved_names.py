"""An image that a real client pulled through an appliance and saved is imported as what it was pulled from."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import pytest

from tests.clients import sides, tools
from tests.clients.plain import ask
from tests.clients.sides import pullcache
from tests.clients.tools import run
from tests.process.service import UPSTREAM, Appliance

pytestmark = pytest.mark.real_client

REPOSITORY = f"{UPSTREAM}/library/tiny"


def names_of(target: Appliance, path: Path, *options: str) -> dict[str, str | None]:
    """The names that an import gives, and what they are in the archive."""
    receipt = json.loads(pullcache(target, "--json", "import", path, *options))
    return {change["name"]: change.get("renamedFrom") for change in receipt["refs"]}


def check(appliance: Appliance, folder: Path, path: Path) -> None:
    """C{path} holds an image that is called after C{appliance}; it means the same there, and where that is an alias."""
    said = f"{appliance.authority}/{REPOSITORY}:latest"
    assert names_of(appliance, path, "--on-existing-tag", "keep") == {f"{REPOSITORY}:latest": said}
    target = Appliance(folder / "closed", sides.NOWHERE, offline=True, bundles={"aliases": [appliance.authority]})
    try:
        target.start()
        assert names_of(target, path) == {f"{REPOSITORY}:latest": said}
        assert ask(target.bare, f"/v2/{REPOSITORY}/manifests/latest").status == 200
    finally:
        target.kill()


@pytest.mark.parametrize("kind", ["docker-archive", "oci-archive"])
def test_skopeo(appliance: Appliance, tmp_path: Path, kind: str) -> None:
    """Both archives that skopeo writes."""
    tools.need("skopeo")
    name = f"{appliance.authority}/{REPOSITORY}:latest"
    copy = ["skopeo", "--insecure-policy", "--tmpdir", tmp_path, "copy", "--quiet", "--src-tls-verify=false"]
    run(*copy, f"docker://{name}", f"{kind}:{tmp_path / 'saved.tar'}:{name}")
    check(appliance, tmp_path, tmp_path / "saved.tar")


def test_podman(appliance: Appliance, tmp_path: Path) -> None:
    """Pulled and saved, as people do it."""
    tools.need("podman")
    # podman refuses a run folder whose path is longer than 50 bytes, and pytest's folders are.
    runtime = tempfile.mkdtemp(prefix="podman")
    policy = tmp_path / "policy.json"
    policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    storage = ["--root", f"{tmp_path}/root", "--runroot", runtime, "--storage-driver", "vfs"]
    podman = ["podman", *storage, "--cgroup-manager", "cgroupfs", "--events-backend", "none"]
    name = f"{appliance.authority}/{REPOSITORY}:latest"
    try:
        pull = ["pull", "--quiet", "--tls-verify=false", "--signature-policy", policy, name]
        run(*podman, *pull, TMPDIR=str(tmp_path))
        run(*podman, "save", "--quiet", "-o", tmp_path / "saved.tar", name, TMPDIR=str(tmp_path))
    finally:
        shutil.rmtree(runtime, ignore_errors=True)
    check(appliance, tmp_path, tmp_path / "saved.tar")
