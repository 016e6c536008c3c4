"""Through an HTTP proxy: which one, for what, and what it may answer."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent
from zope.interface.verify import verifyObject

from appliance.errors import ConfigError, UpstreamRefused, UpstreamTimeout, UpstreamUnavailable
from appliance.settings import NO_PROXY, UpstreamSettings
from appliance.upstream.http.connect import agent_for, proxy_endpoint
from appliance.upstream.http.limits import Timeouts
from appliance.upstream.http.proxy import Proxies, proxies_for
from appliance.upstream.http.trust import Trust
from appliance.upstream.http.tunnel import MAX_HEAD, TunnelEndpoint
from appliance.upstream.url import Url
from tests.doubles.deferreds import failing, pending, result
from tests.rooms.upstream.wires import PRIVATE, PUBLIC, Line, a_reactor, connected

PROXY = "http://proxy.example:3128"
NAMES = {"proxy.example": [PRIVATE], "registry.example": [PUBLIC], "cdn.example": ["198.51.100.7"]}
OPENED = b"HTTP/1.1 200 Connection established\r\n\r\n"
SECRET = "pa:ss w%rd"
CLIENT_HELLO = b"\x16\x03"


def upstream(**settings: Any) -> UpstreamSettings:
    return UpstreamSettings(name="up.example", **{"urls": ("https://registry.example",), **settings})


class Near:
    """Our side: the agents of one upstream, on a reactor in memory."""

    def __init__(self, environ: dict[str, str] | None = None, **settings: Any) -> None:
        self.reactor, self.names = a_reactor(dict(NAMES))
        chosen = upstream(**settings)
        proxies = proxies_for(chosen, environ or {})
        home = Url.parse(chosen.urls[0])
        self.agent = agent_for(chosen, home, self.reactor, Trust(chosen), Timeouts(), proxies)

    def ask(self, url: str, foreign: bool = False) -> Deferred[Any]:
        agent = self.agent.foreign if foreign else self.agent.own
        asking: Deferred[Any] = agent.request(b"GET", url.encode(), Headers({"X-Mine": ["1"]}))
        self.reactor.advance(0)
        return asking

    def fault(self, asking: Deferred[Any]) -> BaseException:
        self.reactor.advance(0)
        return failing(asking)

    def is_idle(self) -> bool:
        """Whether nothing is left to happen but the end of idle connections."""
        return all("_removeConnection" in str(call) for call in self.reactor.getDelayedCalls())


def let_go(asking: Deferred[Any]) -> None:
    asking.addErrback(lambda _: None)
    asking.cancel()


# -- a tunnel ---------------------------------------------------------------------------------------------------------


def test_https_goes_through_a_tunnel_to_the_name() -> None:
    """CONNECT with host and port; the proxy resolves the name; TLS inside it is with the upstream, by its name."""
    near = Near(proxy=PROXY)
    asking = near.ask("https://registry.example/v2/")
    assert connected(near.reactor) == [(PRIVATE, 3128)]
    line = Line(near.reactor)
    head = line.said.decode()
    assert head.startswith("CONNECT registry.example:443 HTTP/1.1\r\nHost: registry.example:443\r\nUser-Agent: ")
    assert head.endswith("\r\n\r\n") and "uthorization" not in head
    line.transport.clear()
    line.say(OPENED)
    assert line.said.startswith(CLIENT_HELLO) and b"registry.example" in line.said and b"proxy" not in line.said
    assert near.names.asked == ["proxy.example"]
    let_go(asking)


def test_an_ipv6_address_is_named_in_brackets() -> None:
    """As RFC 9112 section 3.2.3 has it."""
    near = Near(proxy=PROXY, urls=("https://[2001:db8::5]:8443",))
    asking = near.ask("https://[2001:db8::5]:8443/v2/")
    assert Line(near.reactor).said.startswith(b"CONNECT [2001:db8::5]:8443 HTTP/1.1\r\nHost: [2001:db8::5]:8443\r\n")
    let_go(asking)


@pytest.mark.parametrize(
    "answer",
    [
        OPENED,
        b"HTTP/1.0 200 Connection established\r\nProxy-agent: tinyproxy/1.11.1\r\n\r\n",
        b"HTTP/1.1 200\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 299 \xe9\nVia: x\n\n",
        b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + OPENED,
    ],
)
def test_the_answer_may_come_in_any_pieces(answer: bytes) -> None:
    """Split at every byte, and byte by byte; lengths in the answer mean nothing, and interim answers come before it."""
    splits = [[answer[:at], answer[at:]] for at in range(1, len(answer))]
    for pieces in [*splits, [bytes([octet]) for octet in answer]]:
        near = Near(proxy=PROXY)
        asking = near.ask("https://registry.example/v2/")
        line = Line(near.reactor)
        line.transport.clear()
        for piece in pieces[:-1]:
            line.say(piece)
            assert line.said == b""
        line.say(pieces[-1])
        assert line.said.startswith(CLIENT_HELLO)
        let_go(asking)


class Collecting(Protocol):
    """What is in the tunnel."""

    def __init__(self) -> None:
        self.received = b""
        self.ended = False

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: object = None) -> None:
        self.ended = True


def tunnel(reactor: Any) -> Deferred[Any]:
    proxy = proxies_for(upstream(proxy=PROXY), {}).https
    assert proxy is not None
    to_proxy = proxy_endpoint(proxy, reactor, Timeouts(), "up.example")
    endpoint = TunnelEndpoint(to_proxy, proxy, Url.parse("https://registry.example"), reactor, 10.0, "up.example")
    return endpoint.connect(Factory.forProtocol(Collecting))


def test_everything_behind_the_answer_is_in_the_tunnel() -> None:
    """Bytes that come along with the answer's head, those after it, those of ours, and the end."""
    reactor, _ = a_reactor(dict(NAMES))
    connecting = tunnel(reactor)
    line = Line(reactor)
    line.transport.clear()
    line.say(OPENED + b"early")
    inner = result(connecting)
    assert inner.received == b"early"
    line.say(b", later")
    inner.transport.write(b"mine")
    assert (inner.received, line.said, inner.ended) == (b"early, later", b"mine", False)
    line.end()
    assert inner.ended
    assert reactor.getDelayedCalls() == []


# -- a proxy that says no ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n<html>", "answered 502 Bad Gateway"),
        (b"HTTP/1.1 403 Filtered\r\nContent-Length: 3\r\n\r\nno!", "answered 403 Filtered"),
        (b"HTTP/1.1 301 Moved\r\nLocation: http://x/\r\n\r\n", "answered 301 Moved"),
        (b"HTTP/1.1 503\r\n\r\n", "answered 503"),
        (b"HTTP/1.1 500 \x1b[31mred\r\n\r\n", "answered 500 [31mred"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "the answer is no HTTP"),
        (b"\x15\x03\x01\x00\x02\x02\x28", "the answer is no HTTP"),
        (b"<html>", "the answer is no HTTP"),
        (b"\r\n\r\n", "the answer is no HTTP"),
        (b"HTTP/1.1 2000 OK\r\n\r\n", "the answer is no HTTP"),
        (b"HTTP/1.1 OK\r\n\r\n", "the answer is no HTTP"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * MAX_HEAD, "longer than 16384 bytes"),
    ],
)
def test_a_proxy_that_says_no_is_named(answer: bytes, words: str) -> None:
    """The upstream is unavailable; the message says which proxy answered what, and the connection is dropped."""
    for pieces in ([answer], [answer[:3], answer[3:]]):
        near = Near(proxy=PROXY)
        asking = near.ask("https://registry.example/v2/")
        line = Line(near.reactor)
        for piece in pieces:
            line.say(piece)
        fault = near.fault(asking)
        assert type(fault) is UpstreamUnavailable
        assert f"proxy {PROXY}: CONNECT registry.example:443" in str(fault) and words in str(fault)
        assert line.dropped and near.is_idle()


def test_a_head_without_end_is_cut_off_however_it_trickles() -> None:
    """A proxy cannot fill the memory."""
    near = Near(proxy=PROXY)
    asking = near.ask("https://registry.example/v2/")
    line = Line(near.reactor)
    line.say(b"HTTP/1.1 200 OK\r\n")
    said = 0
    while not line.dropped:
        line.say(b"X-Filler: " + b"x" * 90 + b"\r\n")
        said += 102
    assert MAX_HEAD - 102 <= said <= MAX_HEAD + 102
    assert type(near.fault(asking)) is UpstreamUnavailable


def test_a_silent_proxy_is_given_up() -> None:
    """Ten seconds after it accepted the connection, whatever it dribbled meanwhile."""
    near = Near(proxy=PROXY)
    asking = near.ask("https://registry.example/v2/")
    line = Line(near.reactor)
    near.reactor.advance(9)
    line.say(b"HTTP/1.1 200 OK\r\n")
    assert pending(asking)
    near.reactor.advance(1)
    fault = near.fault(asking)
    assert type(fault) is UpstreamTimeout and PROXY in str(fault) and "10 seconds" in str(fault)
    assert line.dropped and near.is_idle()


def test_a_proxy_that_hangs_up_is_named() -> None:
    """Before it answered."""
    near = Near(proxy=PROXY)
    asking = near.ask("https://registry.example/v2/")
    line = Line(near.reactor)
    line.say(b"HTTP/1.1 2")
    line.end()
    fault = near.fault(asking)
    assert type(fault) is UpstreamUnavailable and PROXY in str(fault) and "closed the connection" in str(fault)
    assert near.is_idle()


def test_a_proxy_that_is_not_there_is_named() -> None:
    """Whether its name is unknown or no port is open, for https and for http."""
    for url in ("https://registry.example/", "http://registry.example/"):
        near = Near(proxy="http://gone.example:3128")
        fault = near.fault(near.ask(url))
        assert type(fault) is UpstreamUnavailable
        assert "proxy http://gone.example:3128" in str(fault) and "cannot be resolved" in str(fault)
        near = Near(proxy=PROXY)
        asking = near.ask(url)
        near.reactor.tcpClients[0][2].clientConnectionFailed(None, Failure(ConnectionRefusedError()))
        near.reactor.advance(1)
        fault = near.fault(asking)
        assert type(fault) is UpstreamUnavailable and f"proxy {PROXY}: cannot connect" in str(fault)


def test_a_request_that_is_given_up_leaves_no_connection() -> None:
    """While the proxy has not answered yet."""
    near = Near(proxy=PROXY)
    asking = near.ask("https://registry.example/v2/")
    line = Line(near.reactor)
    asking.cancel()
    assert isinstance(failing(asking), CancelledError)
    assert line.dropped and near.is_idle()


# -- credentials ------------------------------------------------------------------------------------------------------


def basic(head: bytes) -> str | None:
    match = re.search(rb"\r\nProxy-Authorization: Basic (\S+)\r\n", head)
    return base64.b64decode(match[1]).decode() if match else None


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    path = tmp_path / "proxy-password"
    path.write_text(SECRET + "\n")
    return path


def test_the_password_is_the_one_in_the_file_now(password_file: Path) -> None:
    """Replaced without a restart; while the file is gone, the last one is used."""

    def shown(near: Near) -> str | None:
        asking = near.ask("https://registry.example/v2/")
        said = Line(near.reactor).said
        let_go(asking)
        return basic(said)

    near = Near(proxy=PROXY, proxy_username="me", proxy_password_file=password_file)
    assert shown(near) == f"me:{SECRET}"
    password_file.write_text("other\r\n")
    assert shown(near) == "me:other"
    password_file.unlink()
    assert shown(near) == "me:other"


def test_credentials_in_the_environment_are_decoded() -> None:
    """RFC 3986: what a URL cannot hold is percent-encoded there."""
    near = Near({"HTTPS_PROXY": "http://m%40e:pa%3Ass%20w%25rd@proxy.example:3128"})
    asking = near.ask("https://registry.example/v2/")
    assert basic(Line(near.reactor).said) == f"m@e:{SECRET}"
    let_go(asking)


REFUSALS = [
    (b"", "proxy_username and proxy_password_file"),
    (b'Proxy-Authenticate: Basic realm="x"\r\n', "proxy_username and proxy_password_file"),
    (b"Proxy-Authenticate: Negotiate\r\nproxy-authenticate: NTLM\r\n", "negotiate, ntlm, and only Basic"),
]


@pytest.mark.parametrize(("challenge", "words"), REFUSALS)
@pytest.mark.parametrize("scheme", ["https", "http"])
def test_a_proxy_that_wants_a_password_says_what_to_configure(scheme: str, challenge: bytes, words: str) -> None:
    """407, to CONNECT and to a whole request."""
    near = Near(proxy=PROXY)
    asking = near.ask(f"{scheme}://registry.example/v2/")
    Line(near.reactor).say(b"HTTP/1.1 407 Proxy\r\n" + challenge + b"Content-Length: 0\r\n\r\n")
    fault = near.fault(asking)
    assert type(fault) is UpstreamUnavailable
    assert PROXY in str(fault) and "407" in str(fault) and words in str(fault)


@pytest.mark.parametrize("scheme", ["https", "http"])
def test_a_refused_password_is_not_repeated(scheme: str, password_file: Path) -> None:
    """The message names the proxy and where the password came from, and neither it nor the user."""
    environ = {
        "HTTPS_PROXY": "http://robot:hunter2@proxy.example:3128",
        "HTTP_PROXY": "robot:hunter2@proxy.example:3128",
    }
    for near in (Near(environ), Near(proxy=PROXY, proxy_username="robot", proxy_password_file=password_file)):
        asking = near.ask(f"{scheme}://registry.example/v2/")
        Line(near.reactor).say(b"HTTP/1.1 407 Proxy\r\nContent-Length: 0\r\n\r\n")
        fault = near.fault(asking)
        assert "did not accept" in str(fault) and "_PROXY" in str(fault).upper() or ".proxy" in str(fault)
        for part in ("hunter2", "robot", SECRET, "Basic"):
            assert part not in f"{fault!r} {fault}"


# -- whole requests ---------------------------------------------------------------------------------------------------


def test_http_is_asked_for_with_the_whole_url(password_file: Path) -> None:
    """RFC 9112 section 3.2.2: the proxy gets the URL byte for byte, Host is the target's; and the answer comes back."""
    near = Near(proxy=PROXY, proxy_username="me", proxy_password_file=password_file)
    asking = near.ask("http://registry.example:5000/v2/a?sig=%2f%2F==")
    assert connected(near.reactor) == [(PRIVATE, 3128)] and near.names.asked == ["proxy.example"]
    line = Line(near.reactor)
    head = line.said
    assert head.startswith(b"GET http://registry.example:5000/v2/a?sig=%2f%2F== HTTP/1.1\r\n")
    assert b"\r\nHost: registry.example:5000\r\n" in head and b"\r\nX-Mine: 1\r\n" in head
    assert basic(head) == f"me:{SECRET}"
    line.say(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
    response, body = result(asking), Collecting()
    response.deliverBody(body)
    assert response.code == 200 and body.received == b"hi" and body.ended


def test_a_connection_to_a_proxy_serves_more_than_one_host() -> None:
    """It is kept, and each request on it goes where it says."""
    near = Near(proxy=PROXY)
    asking = near.ask("http://registry.example/a")
    line = Line(near.reactor)
    line.say(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    result(asking).deliverBody(Collecting())
    asking = near.ask("http://other.example/b")
    assert len(near.reactor.tcpClients) == 1 and b"GET http://other.example/b HTTP/1.1" in line.said
    let_go(asking)


def test_a_password_for_the_proxy_is_not_shown_to_others() -> None:
    """Not to hosts that are reached without it."""
    near = Near({"HTTP_PROXY": "http://me:pw@proxy.example:3128", "NO_PROXY": "registry.example"})
    asking = near.ask("http://registry.example/v2/")
    assert connected(near.reactor) == [(PUBLIC, 80)]
    assert b"roxy" not in Line(near.reactor).said
    let_go(asking)


# -- TLS to the proxy -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["https://registry.example/", "http://registry.example/"])
def test_an_https_proxy_is_spoken_to_in_tls_by_its_own_name(url: str) -> None:
    """At port 443 unless another is named; neither target nor password is in the clear."""
    near = Near({"HTTPS_PROXY": "https://me:pw@proxy.example", "HTTP_PROXY": "https://me:pw@proxy.example"})
    asking = near.ask(url)
    assert connected(near.reactor) == [(PRIVATE, 443)]
    said = Line(near.reactor).said
    assert said.startswith(CLIENT_HELLO) and b"proxy.example" in said and b"registry" not in said
    let_go(asking)


# -- which proxy ------------------------------------------------------------------------------------------------------


def way(proxies: Proxies, url: str) -> str | None:
    proxy = proxies.proxy_for(Url.parse(url))
    return None if proxy is None else f"{proxy.url.scheme}://{proxy.url.authority}"


def test_without_a_word_there_is_no_proxy() -> None:
    """Neither in the settings nor in the environment."""
    assert way(proxies_for(upstream(), {}), "https://registry.example") is None


def test_the_environment_decides_for_each_host() -> None:
    """The upstream, its token server and its redirects each on their own, by scheme and NO_PROXY."""
    environ = {"HTTPS_PROXY": "s.example:1", "http_proxy": "http://h.example", "NO_PROXY": "cdn.example,10.0.0.0/8"}
    proxies = proxies_for(upstream(), environ)
    assert way(proxies, "https://registry.example") == "http://s.example:1"
    assert way(proxies, "http://registry.example") == "http://h.example"
    for exempt in (
        "https://cdn.example",
        "https://eu.cdn.example",
        "http://10.1.2.3",
        "https://localhost",
        "http://[::1]",
    ):
        assert way(proxies, exempt) is None


def test_the_settings_count_before_the_environment() -> None:
    """An upstream's own proxy is for all its requests, local ones too; C{none} is for none."""
    environ = {"HTTPS_PROXY": "s.example:1", "HTTP_PROXY": "s.example:1", "NO_PROXY": "*"}
    own = proxies_for(upstream(proxy="https://own.example"), environ)
    for url in ("https://registry.example", "http://127.0.0.1:5000", "https://localhost"):
        assert way(own, url) == "https://own.example"
    none = proxies_for(upstream(proxy=NO_PROXY), {"HTTPS_PROXY": "s.example:1"})
    assert way(none, "https://registry.example") is None


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("socks5://proxy.example:1080", "scheme socks5"),
        ("ftp://proxy.example", "scheme ftp"),
        ("http://", "cannot be read"),
        ("http://hunter2@", "cannot be read"),
        ("http://me:hunt/er2@proxy.example", "cannot be read"),
        ("http://me:hunter2@proxy.example:99999", "cannot be read"),
        ("me:hunter2@proxy example", "cannot be read"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_refused_at_the_start(value: str, words: str) -> None:
    """Naming the variable or the key, what would be right, and nothing of a password."""
    for source, settings, environ in (
        ("HTTPS_PROXY", upstream(), {"HTTPS_PROXY": value}),
        ("http_proxy", upstream(), {"http_proxy": value}),
        ("upstreams.up.example.proxy", upstream(proxy=value), {}),
    ):
        with pytest.raises(ConfigError, match=f"^{source}: ") as caught:
            proxies_for(settings, environ)
        assert words in str(caught.value) and "http://proxy.example:3128" in str(caught.value)
        assert "hunt" not in str(caught.value)
    assert way(proxies_for(upstream(proxy=NO_PROXY), {"HTTPS_PROXY": value}), "https://registry.example") is None


def test_credentials_that_cannot_be_used_are_refused_at_the_start(tmp_path: Path, password_file: Path) -> None:
    """A password file that is not there, and a user name that Basic cannot say."""
    gone = upstream(proxy=PROXY, proxy_username="me", proxy_password_file=tmp_path / "gone")
    with pytest.raises(ConfigError, match=r"^upstreams\.up\.example\.proxy_password_file: .*gone cannot be read"):
        proxies_for(gone, {})
    with pytest.raises(ConfigError, match=r"^upstreams\.up\.example\.proxy_username: .*colon"):
        proxies_for(upstream(proxy=PROXY, proxy_username="m:e", proxy_password_file=password_file), {})


def test_a_proxy_shows_no_password() -> None:
    """In no log and no traceback."""
    proxies = proxies_for(upstream(), {"HTTPS_PROXY": "http://robot:hunter2@proxy.example:3128"})
    assert "hunter2" not in repr(proxies) and "robot" not in repr(proxies)
    assert proxies.https is not None and "hunter2" not in proxies.https.shown + proxies.https.advice()


# -- where an upstream may lead, through a proxy ----------------------------------------------------------------------

INSIDE = ["127.0.0.1", "[::1]", "10.0.0.1", "[::ffff:10.0.0.1]", "127.1", "0x7f000001", "2130706433", "localhost",
          "localhost.", "x.localhost", "[fd00::1]", "0.0.0.0", "192.168.1"]  # fmt: skip
LINKED = ["169.254.169.254", "[::ffff:169.254.169.254]", "[fe80::1]", "0xa9fea9fe", "169.254.43518"]


@pytest.mark.parametrize("host", INSIDE + LINKED)
@pytest.mark.parametrize("scheme", ["https", "http"])
def test_a_public_upstream_leads_to_no_inside_address_of_a_proxys(scheme: str, host: str) -> None:
    """The proxy stands inside, and is not asked: addresses in the URL are refused in every notation."""
    near = Near(proxy=PROXY)
    fault = near.fault(near.ask(f"{scheme}://{host}/latest/meta-data", foreign=True))
    assert type(fault) is UpstreamRefused
    assert connected(near.reactor) == [] and near.names.asked == []


@pytest.mark.parametrize("host", ["cdn.example", "inside.example", "203.0.113.9", "0.example", "1e1.example"])
def test_names_are_the_proxys_to_resolve(host: str) -> None:
    """What a name stands for behind a proxy is not known here, so it is asked for."""
    near = Near(proxy=PROXY)
    asking = near.ask(f"https://{host}/x", foreign=True)
    assert Line(near.reactor).said.startswith(f"CONNECT {host}:443 ".encode())
    let_go(asking)


def test_redirect_hosts_name_the_exceptions() -> None:
    """Through a proxy as without; a link-local address has to be named itself."""
    near = Near(proxy=PROXY, redirect_hosts=("10.0.0.1", "localhost:9000", "169.254.169.254"))
    for url, host in (
        ("https://10.0.0.1:9000/x", "10.0.0.1:9000"),
        ("https://localhost:9000/x", "localhost:9000"),
        ("https://169.254.169.254/x", "169.254.169.254:443"),
    ):
        asking = near.ask(url, foreign=True)
        assert Line(near.reactor).said.startswith(f"CONNECT {host} ".encode())
        let_go(asking)
    for url in ("https://10.0.0.2/x", "https://localhost/x", "https://169.254.169.253/x"):
        assert type(near.fault(near.ask(url, foreign=True))) is UpstreamRefused


def test_a_private_upstream_by_address_leads_to_its_neighbours() -> None:
    """An upstream configured by a private address is known to be private without being resolved."""
    near = Near(proxy=PROXY, urls=("https://10.0.0.1:5000",))
    asking = near.ask("https://10.0.0.2/x", foreign=True)
    assert Line(near.reactor).said.startswith(b"CONNECT 10.0.0.2:443 ")
    let_go(asking)
    assert type(near.fault(near.ask("https://169.254.169.254/x", foreign=True))) is UpstreamRefused


def test_what_is_reached_without_the_proxy_is_screened_as_ever() -> None:
    """NO_PROXY takes a host out of the proxy's hands, not out of the rules."""
    near = Near({"HTTPS_PROXY": PROXY, "NO_PROXY": "inside.example"})
    near.names.table["inside.example"] = ["10.9.9.9"]
    assert type(near.fault(near.ask("https://inside.example/x", foreign=True))) is UpstreamRefused
    assert connected(near.reactor) == []


def test_the_endpoints_keep_their_interface() -> None:
    """They can stand wherever Twisted wants an endpoint or an agent."""
    reactor, _ = a_reactor({})
    proxy = proxies_for(upstream(proxy=PROXY), {}).https
    assert proxy is not None
    through = proxy_endpoint(proxy, reactor, Timeouts(), "u")
    assert verifyObject(IStreamClientEndpoint, through)
    target = Url.parse("https://registry.example")
    assert verifyObject(IStreamClientEndpoint, TunnelEndpoint(through, proxy, target, reactor, 1.0, "u"))
    agent = Near(proxy=PROXY).agent
    assert verifyObject(IAgent, agent.own) and verifyObject(IAgent, agent.foreign) and verifyObject(IAgent, agent)
