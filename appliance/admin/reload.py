"""Reading the configuration again, as SIGHUP does, with an answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twisted.web.server import Request

from appliance.admin.failures import Refused
from appliance.admin.route import Reply, Route, json, operator_of
from appliance.api import Reloaded
from appliance.errors import ConfigError
from appliance.identity.roles import Operator, Role

Reload = Callable[[Operator], Sequence[str]]
"""
Reads the configuration for who asks; gives the keys that changed and take effect with a restart only. Raises
L{ConfigError}, and then the old one stays in force.
"""


class ReloadPage:
    """Has the configuration read again."""

    def __init__(self, reload: Reload) -> None:
        self._reload = reload

    def routes(self) -> list[Route]:
        """The routes of this part."""
        what = "Read the configuration again; one that cannot be used leaves the old one in force."
        return [Route("POST", "/api/v1/reload", self.reload, what, Reloaded, role=Role.MANAGE)]

    def reload(self, request: Request) -> Reply:
        """What of it needs a restart; 409 with what is wrong with it."""
        try:
            return json(Reloaded(list(self._reload(operator_of(request)))))
        except ConfigError as error:
            raise Refused(409, "configuration", f"the old configuration stays in force: {error}") from None
