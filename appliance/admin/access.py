"""Who may pull what, and by which rule: C{/api/v1/access}."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address

from twisted.web.server import Request

from appliance.admin.failures import Refused
from appliance.admin.route import Parameter, Reply, Route, json, value
from appliance.api import AccessAnswer, AccessReport
from appliance.bundle.names import Names
from appliance.cache.access import Access, Client, RemoteRepository
from appliance.errors import UpstreamUnknown
from appliance.identity.proxies import is_loopback
from appliance.oci.pattern import ReferencePattern
from appliance.oci.reference import Reference
from appliance.settings import LIST, LOGIN_NONE, LOGIN_REQUIRED, PULL, ListenSettings, Settings

_NOBODY = "-"


class AccessPage:
    """Says what a client would be answered, without asking anything for it."""

    def __init__(self, access: Access, settings: Callable[[], Settings], names: Names) -> None:
        self._access = access
        self._settings = settings
        self._names = names

    def routes(self) -> list[Route]:
        """The routes of this part."""
        return [
            Route(
                "GET",
                "/api/v1/access",
                self.explain,
                "What a client may read, and which rule decides.",
                AccessReport,
                (
                    Parameter("reference", "An image, or a repository."),
                    Parameter("user", "Who asks. Default: an anonymous client."),
                    Parameter("address", "Its IP address. Default: one that is in no network."),
                    Parameter("listener", "The name of the one it is connected to. Default: each of them."),
                    Parameter("action", "pull or list. Default: pull."),
                ),
            )
        ]

    def explain(self, request: Request) -> Reply:
        """An answer for each listener."""
        user, address = value(request, "user") or None, value(request, "address") or _NOBODY
        if address != _NOBODY:
            try:
                ip_address(address)
            except ValueError:
                raise Refused(400, "bad-request", f"address={address[:60]}: is no IP address") from None
        action = value(request, "action") or PULL
        if action not in (PULL, LIST):
            raise Refused(400, "bad-request", f"action={action[:40]}: the actions are {PULL}, {LIST}")
        wanted = value(request, "listener")
        listeners = [each for each in self._settings().listen if wanted in (None, each.name)]
        if not listeners:
            there = ", ".join(str(each.name) for each in self._settings().listen)
            raise Refused(404, "not-found", f"{str(wanted)[:60]}: no such listener; there are: {there}")
        repository = self._repository(value(request, "reference") or "")
        answers = [self._answer(repository, each, user, address, action) for each in listeners]
        return json(AccessReport(str(repository), action, user, None if address == _NOBODY else address, answers))

    def _repository(self, text: str) -> RemoteRepository:
        """The repository that is meant, whoever may read it. Raises L{UpstreamUnknown}, and what parsing raises."""
        place = Reference.parse(ReferencePattern.parse(self._names.behind(text), self._names.upstream_for).place)
        remote = self._access.remotes.get(place.upstream)
        if remote is None:
            raise UpstreamUnknown(f"no upstream {place.upstream} is configured")
        return remote.repository(place.repository)

    def _answer(
        self, repository: RemoteRepository, listener: ListenSettings, user: str | None, address: str, action: str
    ) -> AccessAnswer:
        name, notes, settings = listener.name or "", list[str](), self._settings()
        takes_passwords = listener.login != LOGIN_NONE and bool(settings.checkers_of(listener))
        if takes_passwords and not (listener.is_tls or is_loopback(address) or settings.proxies_of(listener)):
            notes.append("no password is taken here: the connection is not encrypted")
            takes_passwords = False
        if user is not None and not takes_passwords and listener.client_ca_file is None:
            notes.append("nobody logs in here, so the user counts for nothing")
            user = None
        means = "address" if user is None else "basic"
        client = Client(address, user, means, name, may_log_in=takes_passwords and user is None)
        decision = self._access.decide(repository, client, action)
        if user is None and listener.login == LOGIN_REQUIRED:
            notes.append("this listener serves nothing without a login")
            return AccessAnswer(name, False, 401 if takes_passwords or listener.client_ca_file else 403, "", notes)
        if not decision.allowed:
            return AccessAnswer(name, False, 401 if client.may_log_in else 404, decision.rule, notes)
        if not repository.is_permitted:
            notes.append(f"allow and deny of {repository.upstream} do not let it be pulled through")
            return AccessAnswer(name, False, 403, decision.rule, notes)
        return AccessAnswer(name, True, 200, decision.rule, notes)
