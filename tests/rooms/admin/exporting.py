"""Exports over the admin endpoint."""

from __future__ import annotations

import io
import tarfile
from typing import Any
from urllib.parse import quote

from tests.doubles.appliance import Answer, Appliance


def entries(answer: Answer) -> dict[str, bytes]:
    assert (answer.code, answer.header("Content-Type")) == (200, "application/x-tar"), answer.body[:300]
    assert answer.length == len(answer.body)
    with tarfile.open(fileobj=io.BytesIO(answer.body), mode="r:") as archive:
        return {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]


def blobs(*contents: Any) -> set[str]:
    parts = [part for content in contents for part in content.walk()]
    return {blob.digest for part in parts for blob in (part.manifest, *part.blobs)}


def carried(answer: Answer) -> set[str]:
    return {f"sha256:{name.rpartition('/')[2]}" for name in entries(answer) if name.startswith("blobs/")}


def planned(site: Appliance, **order: Any) -> Any:
    answer = site.ask("POST", "exports", order)
    assert answer.code == 201, answer.body
    return answer.json


def volume(site: Appliance, plan: Any, n: int = 1) -> Answer:
    return site.ask("GET", f"exports/{quote(plan['id'], safe='')}/volumes/{n}")
