"""The running service and browsers: by name and by page, on both ports."""

from __future__ import annotations

import http.client

import pytest

from tests.process.service import PATIENCE, Appliance

pytestmark = pytest.mark.process

EVIL = "http://evil.example"


def ask(authority: str, path: str, **fields: str) -> tuple[int, str | None]:
    """Status, and the policy that the response carries; Host is that of C{authority} unless it is given."""
    connection = http.client.HTTPConnection(authority, timeout=PATIENCE)
    try:
        connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in fields.items()})
        response = connection.getresponse()
        response.read()
        return response.status, response.getheader("Content-Security-Policy")
    finally:
        connection.close()


def test_neither_port_answers_a_foreign_page_nor_to_a_name_that_is_not_its_own(idle: Appliance) -> None:
    """A body that is not wanted is not read either; programs and our own names are served as ever."""
    idle.settings["admin"]["hosts"] = ["console.example"]
    idle.settings["listen"][1]["hosts"] = ["cache.example", "127.0.0.1"]
    idle.write()
    idle.start()
    expected = [
        (idle.admin, "/healthz", {}, 200),
        (idle.admin, "/healthz", {"Host": "console.example"}, 200),
        (idle.admin, "/healthz", {"Host": "localhost"}, 200),
        (idle.admin, "/healthz", {"Host": "evil.example"}, 421),
        (idle.admin, "/api/v1/status", {"Origin": EVIL}, 403),
        (idle.admin, "/metrics", {"Sec_Fetch_Site": "cross-site"}, 403),
        (idle.admin, "/api/v1/images/%ff", {}, 400),
        (idle.admin, "/healthz", {"Content_Length": "1"}, 413),
        (idle.authority, "/v2/", {}, 200),
        (idle.authority, "/v2/", {"Host": "any.example"}, 200),
        (idle.authority, "/v2/", {"Host": "a..b"}, 400),
        (idle.authority, "/v2/", {"Origin": EVIL}, 403),
        (idle.authority, "/v2/", {"Referer": f"{EVIL}/page"}, 403),
        (idle.bare, "/v2/", {}, 200),
        (idle.bare, "/v2/", {"Host": "cache.example:5000"}, 200),
        (idle.bare, "/v2/", {"Host": "evil.example"}, 421),
    ]
    found = [(*each[:3], *ask(each[0], each[1], **each[2])) for each in expected]
    assert [each[:4] for each in found] == expected
    assert {each[4] for each in found} == {"default-src 'none'; sandbox"}
    assert "Traceback" not in idle.log()
