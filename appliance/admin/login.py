"""
C{/login}, where a browser shows a token once and has a session from then on, and what the session is.

Its page is the only one here that is HTML; everything else is for programs.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from urllib.parse import parse_qs

from twisted.web.server import Request

from appliance.admin.failures import Refused
from appliance.admin.operators import WRONG_TOKEN, Operators, cookie_name, cookie_of, login_required
from appliance.admin.route import Reply, Route, about, body, json, media_type, operator_of, raw
from appliance.api import LoggedIn, LoginOrder
from appliance.identity.roles import TOKEN_LIMIT, Operator
from appliance.identity.sessions import DURATION

FORM = "application/x-www-form-urlencoded"
HTML = "text/html; charset=utf-8"

PAGE_HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "same-origin",
}
"""Of every page, instead of what forbids a browser to make anything of an answer (C{flow.http.PROTECTION})."""

# What a token may take where each of its characters is written with three.
_LIMIT = 3 * TOKEN_LIMIT + 64
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>pullcache: log in</title></head><body>
<h1>pullcache</h1>
<p>{said}</p>
<form method="post" action="/login">
<label>Token <input type="password" name="token" autocomplete="current-password" required autofocus></label>
<button>Log in</button>
</form>
</body></html>
"""


class LoginPages:
    """Opens, shows and ends the sessions of browsers."""

    def __init__(self, operators: Operators) -> None:
        self._operators = operators

    def routes(self) -> list[Route]:
        """The routes of this part."""
        session = "/api/v1/session"
        return [
            Route("GET", "/login", self.page, "A page to log in at, for browsers.", "text/html", role=None),
            Route(
                "POST",
                "/login",
                self.log_in,
                "Show a token, as JSON or as the field token of a form, for a session by a cookie.",
                LoggedIn,
                takes=LoginOrder,
                body_limit=_LIMIT,
                action="login",
                role=None,
            ),
            Route("GET", session, self.shown, "Who asks, in which role, and what a session needs to act.", LoggedIn),
            Route("DELETE", session, self.log_out, "End the browser's session.", LoggedIn, action="logout"),
        ]

    def page(self, request: Request) -> Reply:
        """The page; it says whether there is a session already."""
        _, grant = self._operators.session_of(request.requestHeaders)
        if grant is not None:
            return _page(f"You are logged in with {grant.name} ({grant.role.word}). Another token replaces it.")
        return _page("Log in with a token of the admin endpoint.")

    def log_in(self, request: Request) -> Reply:
        """A session for who shows a token; a form is led back to the page, which says so."""
        is_form = media_type(request) == FORM
        token = _field(raw(request)) if is_form else body(request, LoginOrder).token
        grant = self._operators.granted(token.strip())
        if grant is None:
            if not self._operators.asks:
                raise Refused(409, "no-login", "no token is asked for here: admin: token_file names no file")
            refused = login_required(WRONG_TOKEN, "invalid_token")
            if is_form:
                return _page(f"That did not work: {refused}.", refused.status, refused.headers)
            raise refused
        about(request).what = grant.name
        # A session from before, perhaps another's, ends: who logs in is one operator from here on.
        self._operators.sessions.end(cookie_of(request.requestHeaders))
        secret = self._operators.sessions.begin(grant.digest)
        session = self._operators.sessions.find(secret)
        headers = {"Set-Cookie": _cookie(request, secret, DURATION), "Cache-Control": "no-store"}
        if is_form:
            return Reply(b"", 303, HTML, headers | {"Location": "/login"})
        operator = Operator(grant.role, grant.name, "session")
        return _told(operator, "" if session is None else session.csrf, headers)

    def shown(self, request: Request) -> Reply:
        """Who asks."""
        session, _ = self._operators.session_of(request.requestHeaders)
        operator = operator_of(request)
        return _told(operator, session.csrf if session is not None and operator.means == "session" else "")

    def log_out(self, request: Request) -> Reply:
        """End the session, where it is one; the answer is who it was."""
        self._operators.sessions.end(cookie_of(request.requestHeaders))
        return _told(operator_of(request), "", {"Set-Cookie": _cookie(request, "", 0), "Cache-Control": "no-store"})


def _told(operator: Operator, csrf: str, headers: Mapping[str, str] | None = None) -> Reply:
    answer = json(LoggedIn(operator.role.word, operator.name, operator.means, csrf))
    return Reply(answer.body, headers=headers or {"Cache-Control": "no-store"})


def _page(said: str, status: int = 200, more: Mapping[str, str] | None = None) -> Reply:
    return Reply(_PAGE.format(said=escape(said)).encode("utf-8"), status, HTML, {**PAGE_HEADERS, **(more or {})})


def _field(form: bytes) -> str:
    try:
        fields = parse_qs(form.decode("ascii"), max_num_fields=4, errors="strict")
    except ValueError:
        raise Refused(400, "bad-request", "the form is not understood") from None
    return fields.get("token", [""])[0]


def _cookie(request: Request, secret: str, seconds: float) -> str:
    """RFC 6265 section 4.1; C{SameSite=Strict}: no other site's link or form carries it."""
    secure = "; Secure" if request.isSecure() else ""
    name = cookie_name(request.requestHeaders)
    return f"{name}={secret}; Path=/; Max-Age={seconds:.0f}; HttpOnly; SameSite=Strict{secure}"
