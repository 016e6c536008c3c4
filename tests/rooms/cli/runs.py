"""The command, run in this process: as it is, or against a made-up appliance in memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from typing import Any

from treq.testing import StubTreq
from twisted.internet.defer import Deferred
from twisted.web.http import Request
from twisted.web.resource import Resource

from appliance.cli.address import AdminAddress
from appliance.cli.client import AdminClient
from appliance.cli.command import Session, top_parser
from appliance.cli.main import GROUPS, Invocation, main
from appliance.cli.screen import Screen, meter_for

URL = "http://appliance.test:5001"


@dataclass(frozen=True)
class Ended:
    """How a command ended and what it printed."""

    code: Any
    out: str
    err: str


def run(*arguments: str) -> Ended:
    """Run a command that asks no appliance."""
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            main(arguments)
        except SystemExit as end:
            return Ended(end.code, out.getvalue(), err.getvalue())
    raise AssertionError("main returned")


@dataclass
class Answer:
    """What is answered: a status code and a body, bytes or what becomes JSON."""

    body: Any
    code: int = 200


@dataclass
class Asked:
    """A request: C{body} as it was sent."""

    method: str
    path: str
    body: bytes
    parameters: dict[str, str] = field(default_factory=dict)

    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)


class Appliance(Resource):
    """
    Answers by C{"METHOD path"} below C{/api/v1/}.

    @ivar asked: the requests so far.
    """

    isLeaf = True

    def __init__(self, answers: dict[str, Any]) -> None:
        super().__init__()
        self.answers = answers
        self.asked: list[Asked] = []

    def render(self, request: Request) -> bytes:
        """See L{Resource}."""
        path = request.path.decode().removeprefix("/api/v1/")
        parameters = {name.decode(): values[0].decode() for name, values in request.args.items()}
        body = request.content.read() if request.content else b""
        self.asked.append(Asked(request.method.decode(), path, body, parameters))
        answer = self.answers.get(f"{request.method.decode()} {path}", Answer({"error": f"no {path} here"}, 404))
        answer = answer if isinstance(answer, Answer) else Answer(answer)
        request.setResponseCode(answer.code)
        return answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()


class NoReactor:
    """Remembers what is to be done before it stops."""

    def __init__(self) -> None:
        self.triggers: list[Callable[[], Any]] = []

    def addSystemEventTrigger(self, phase: str, event: str, call: Callable[[], Any]) -> None:
        """See L{IReactorCore}."""
        self.triggers.append(call)


def ask(appliance: Appliance, *arguments: str) -> Ended:
    """Run a command that asks C{appliance}."""
    options = top_parser(GROUPS).parse_args(arguments)
    out, err = StringIO(), StringIO()
    screen = Screen(out, err, options.json)
    treq = StubTreq(appliance)
    client = AdminClient(AdminAddress(URL, URL), treq)  # type: ignore[arg-type]  # asks the same way as HTTPClient
    session = Session(screen, lambda: meter_for(screen, lambda: 0.0), client)
    ended = Invocation(NoReactor(), screen).run(options.ask(session, options))  # type: ignore[arg-type]
    return Ended(code_of(ended, treq), out.getvalue(), err.getvalue())


def code_of(ended: Deferred[None], treq: StubTreq) -> Any:
    """The exit status, once everything that is under way has arrived."""
    results: list[Any] = []
    ended.addBoth(results.append)
    for _ in range(100):
        if results:
            return results[0].value.code if results[0].check(SystemExit) else results[0].raiseException()
        treq.flush()
    raise AssertionError("the command waits for something that does not come")
