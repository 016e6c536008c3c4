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
from appliance.errors import AccessDenied, LoginExposed, LoginRequired, NotPermitted, PullcacheError, UpstreamUnknown
from appliance.identity.proxies import is_loopback
from appliance.oci.pattern import ReferencePattern
from appliance.oci.reference import Reference
from appliance.settings import LIST, LOGIN_NONE, PULL, ListenSettings, Settings

# Stands for an address that was not given: it is in no network but 0.0.0.0/0.
_ANYWHERE = "0.0.0.0"
# As the registry answers them (appliance.registry.failures).
_STATUS: dict[type[PullcacheError], int] = {AccessDenied: 404, LoginRequired: 401, LoginExposed: 403, NotPermitted: 403}


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
                    Parameter("address", "Its IP address. Default: one that is in no network but 0.0.0.0/0."),
                    Parameter("listener", "The name of the one it is connected to. Default: each of them."),
                    Parameter("action", "pull or list. Default: pull."),
                ),
            )
        ]

    def explain(self, request: Request) -> Reply:
        """An answer for each listener."""
        user, address = value(request, "user") or None, value(request, "address") or _ANYWHERE
        if address != _ANYWHERE:
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
        return json(AccessReport(str(repository), action, user, None if address == _ANYWHERE else address, answers))

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
        settings, notes, rule, status = self._settings(), list[str](), "", 200
        takes_passwords = listener.login != LOGIN_NONE and bool(settings.checkers_of(listener))
        has_certificates = listener.client_ca_file is not None
        is_local = listener.endpoint.startswith("unix:")
        # Behind a balancer it is that which says so.
        is_sheltered = listener.is_tls or is_local or is_loopback(address) or bool(settings.proxies_of(listener))
        if user is not None and not takes_passwords and not has_certificates:
            notes.append("nobody logs in here, so the user counts for nothing")
            user = None
        try:
            if takes_passwords and not is_sheltered:
                notes.append("no password is taken here: the connection is not encrypted")
                if user is not None and not has_certificates:
                    raise LoginExposed(was_sent=True)
            client = Client.admitted(
                listener,
                "-" if is_local else address,
                user,
                "address" if user is None else "basic" if takes_passwords else "certificate",
                takes_passwords=takes_passwords,
                is_sheltered=is_sheltered,
            )
            rule = self._access.decide(repository, client, action).rule
            self._access.check(repository, client, action)
        except PullcacheError as error:
            status = _STATUS[type(error)]
            if isinstance(error, NotPermitted) or (isinstance(error, LoginRequired) and not rule):
                notes.append(str(error))
        return AccessAnswer(listener.name or "", status == 200, status, rule, notes)
