"""pullcache certificate: what it makes, and what it tells to do with it."""

from __future__ import annotations

import json
from pathlib import Path

from tests.rooms.cli.runs import run


def test_what_goes_where_is_printed_for_each_client(tmp_path: Path) -> None:
    folder = tmp_path / "tls"
    ended = run("certificate", "--name", "cache.site", "--name", "10.0.0.5", "-o", str(folder))
    assert ended.code == 0, ended.err
    assert f"listen: [{{endpoint: 'tls:{folder}:port=5000'}}]" in ended.out
    for place in (
        "docker: /etc/docker/certs.d/cache.site:5000/ca.crt",
        "podman, skopeo, buildah: /etc/containers/certs.d/10.0.0.5:5000/ca.crt",
        "containerd: /etc/containerd/certs.d/cache.site:5000/ca.crt",
        '/etc/rancher/k3s/registries.yaml: configs: {"cache.site:5000": {tls: {ca_file:',
    ):
        assert place in ended.out
    assert "never the keys" in ended.out
    assert "PRIVATE" not in ended.out


def test_again_it_renews(tmp_path: Path) -> None:
    run("certificate", "--name", "cache.site", "-o", str(tmp_path))
    authority = (tmp_path / "ca.crt").read_bytes()
    ended = run("certificate", "-o", str(tmp_path))
    assert ended.code == 0 and "clients that have the authority need nothing" in ended.out
    assert (tmp_path / "ca.crt").read_bytes() == authority


def test_a_machine_reads_it_as_json(tmp_path: Path) -> None:
    document = json.loads(run("--json", "certificate", "--name", "cache.site", "-o", str(tmp_path)).out)
    assert document["names"] == ["cache.site"] and document["isNewAuthority"]
    assert document["certificate"] == str(tmp_path / "server.pem") and len(document["fingerprint"]) == 64


def test_what_is_wrong_is_said_in_one_line(tmp_path: Path) -> None:
    for arguments, why in (
        (("--name", "https://cache.site", "-o", str(tmp_path / "tls")), "is no host name and no address"),
        (("-o", str(tmp_path)), "say for which names it shall be (--name)"),
        (("--name", "a", "-o", str(tmp_path / "no" / "folder")), "is no folder"),
        (("--name", "a", "--days", "9999", "-o", str(tmp_path)), "no number of days from 1 to 825"),
    ):
        ended = run("certificate", *arguments)
        assert ended.code and why in ended.err, ended.err
