"""Who is measured beside the appliance: which programs there are, and how those are got that are not."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path

PULLCACHE, NGINX = "pullcache", "nginx"
REGISTRY, REGISTRY_PROXY = "docker-registry", "docker-registry proxy"
DISTRIBUTION, DISTRIBUTION_PROXY = "distribution v3", "distribution v3 proxy"
ZOT = "zot"

MODULE = "github.com/distribution/distribution/v3/cmd/registry@v3.1.2"
PATIENCE = 900.0
"""Seconds that building it may take."""

NEEDED = {
    "docker-registry": "apt-get install docker-registry: it is the upstream, and a peer",
    "wrk": "apt-get install wrk: it asks for manifests",
    "curl": "apt-get install curl: it asks for blobs",
}
WANTED = {
    "nginx": "apt-get install nginx-light: the limit that figures are held against",
    "go": "apt-get install golang: it builds distribution v3",
    "zot": "a zot 2.1 on PATH, from its project's releases: a peer",
    "matplotlib": "pip install --editable '.[bench]' into .venv: it draws the pictures",
}


def have() -> dict[str, str]:
    """Where everything is that is there, by its name in L{NEEDED} and L{WANTED}."""
    found = {name: where for name in (*NEEDED, *WANTED) if (where := shutil.which(name))}
    if find_spec("matplotlib") is not None:
        found["matplotlib"] = "importable"
    return found


def missing(names: Mapping[str, str], there: Mapping[str, str]) -> list[str]:
    """A line for each of C{names} that is not C{there}: what it is, and how it is got."""
    return [f"{name} is missing; {how}" for name, how in names.items() if name not in there]


def distribution(folder: Path, there: Mapping[str, str], say: Callable[[str], None]) -> str | None:
    """
    The program of distribution v3, built into C{folder} where it was not before.

    @return: C{None} where it cannot be had; C{say} was told why.
    """
    program = folder / "registry"
    if program.exists():
        return str(program)
    if "go" not in there:
        return None
    say(f"building {MODULE} into {folder}, once")
    folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "GOBIN": str(folder), "GOFLAGS": ""}
    try:
        built = subprocess.run(
            ["go", "install", MODULE], env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
    except subprocess.TimeoutExpired:
        say(f"{DISTRIBUTION} is left out: go install took longer than {PATIENCE:g} s")
        return None
    if built.returncode:
        say(f"{DISTRIBUTION} is left out: go install: {built.stderr.strip()[-500:]}")
        return None
    return str(program)
