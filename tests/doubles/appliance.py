"""An appliance in memory, asked as its operator does; nothing happens but by a request or a step of the clock."""

from __future__ import annotations

import json
from typing import Any

from treq.testing import StubTreq
from twisted.internet.defer import Deferred, succeed

from appliance.admin.metrics import Metrics
from appliance.admin.reload import Reload
from appliance.cache.access import RemoteRepository
from appliance.flow.disk import InlineThreads
from appliance.index.memory import MemoryDocuments
from appliance.oci.digest import Digest
from appliance.settings import AdminSettings, BundleSettings, Settings, UpstreamSettings
from appliance.store.memory import MemoryBlobStore
from appliance.wiring import Services
from tests.doubles.audit import NotedAudit
from tests.doubles.deferreds import result
from tests.doubles.images import Blob, Content
from tests.doubles.pullthrough import clock_at
from tests.doubles.upstream import ScriptedUpstream

HUB = "docker.io"
NGINX = "library/nginx"
TAGGED = 1_700_000_000.0


class Answer:
    """
    A response, whole.

    @ivar length: what its C{Content-Length} says, C{None} when it has none.
    """

    def __init__(self, code: int, length: int | str, headers: Any, body: bytes) -> None:
        self.code = code
        self.length = length if isinstance(length, int) else None
        self.body = body
        self._headers = headers

    def header(self, name: str) -> str | None:
        """The header's value."""
        found = self._headers.getRawHeaders(name)
        return None if found is None else str(found[0])

    @property
    def json(self) -> Any:
        """The body as a document."""
        return json.loads(self.body)

    @property
    def lines(self) -> list[Any]:
        """The body as documents, one a line."""
        assert self.body.endswith(b"\n")
        return [json.loads(line) for line in self.body.splitlines()]


class Appliance:
    """
    One appliance with one upstream, Docker Hub.

    @ivar published: how often it was reported that tags may mean something else.
    """

    def __init__(
        self,
        offline: bool = False,
        admin_hosts: tuple[str, ...] = (),
        admin: AdminSettings | None = None,
        reload: Reload = lambda operator: (),
        **bundles: Any,
    ) -> None:
        self.clock = clock_at()
        self.store = MemoryBlobStore()
        self.state = MemoryDocuments()
        self.documents = MemoryDocuments()
        self.hub = ScriptedUpstream(HUB, library=True)
        self.published = 0
        upstream = UpstreamSettings(name=HUB, urls=("https://hub.example",), kind="dockerhub")
        self.audit = NotedAudit()
        self.services = services = Services(
            Settings(
                upstreams={HUB: upstream},
                offline=offline,
                admin=admin or AdminSettings(hosts=admin_hosts),
                bundles=BundleSettings(site="berth-3", **bundles),
            ),
            clock=self.clock,
            threads=InlineThreads(),
            store=self.store,
            documents=self.documents,
            state=self.state,
            probe=lambda: succeed(None),
            make_upstream=lambda settings, offline: self.hub,
            metrics=Metrics(self.clock, None),
            audit=self.audit,
            reload=reload,
        )
        self.repositories, self.flights = services.repositories, services.flights
        self.wants, self.usage, self.through = services.wants, services.usage, services.cache
        for listener in services.listeners:
            listener.forget_answers = self._note_published  # type: ignore[method-assign]
            listener.forget_repository = self._note_published  # type: ignore[method-assign]
        assert services.admin is not None
        self.app = services.admin
        self.treq = StubTreq(self.app.site().resource)

    @property
    def settings(self) -> Settings:
        """Those in force."""
        return self.services.settings

    @settings.setter
    def settings(self, settings: Settings) -> None:
        self.services.settings = settings

    def at(self, upstream: str, name: str) -> RemoteRepository:
        """A repository, when it may be read."""
        return self.services.access.open(upstream, name)

    def _note_published(self, *place: str) -> None:
        self.published += 1

    # -- what is held -----------------------------------------------------------------------------------------------

    def hold(self, content: Content, *tags: str, name: str = NGINX, without: tuple[Blob, ...] = ()) -> Digest:
        """Hold everything beneath C{content}, but for some blobs, under the tags; its digest."""
        repository = result(self.repositories.get(HUB, name))
        for part in content.walk():
            for blob in (part.manifest, *part.blobs):
                if blob not in without:
                    result(self.store.put(Digest.parse(blob.digest), blob.data))
            if part.manifest not in without:
                repository.hold(Digest.parse(part.digest), part.manifest.media_type, len(part.manifest.data))
        for tag in tags:
            repository.tag(tag, Digest.parse(content.digest), TAGGED)
        result(self.repositories.save(repository))
        return Digest.parse(content.digest)

    def offer(self, content: Content, *tags: str, name: str = NGINX) -> None:
        """Let the upstream have it."""
        for part in content.walk():
            names = tags if part is content else ()
            self.hub.add_manifest(name, part.manifest.data, part.manifest.media_type, *names)
            for blob in part.blobs:
                self.hub.add_blob(name, blob.data)

    # -- asking -----------------------------------------------------------------------------------------------------

    def begin(self, method: str, path: str, document: Any = None, **more: Any) -> Deferred[Any]:
        """A request under way."""
        if document is not None:
            more = {"data": json.dumps(document).encode(), "headers": {"Content-Type": "application/json"}, **more}
        asked: Deferred[Any] = self.treq.request(method, f"http://127.0.0.1:5001/api/v1/{path}", **more)
        return asked

    def ask(self, method: str, path: str, document: Any = None, **more: Any) -> Answer:
        """A request and its answer."""
        asked = self.begin(method, path, document, **more)
        self.treq.flush()
        response = result(asked)
        content = self.treq.content(response)
        self.treq.flush()
        return Answer(response.code, response.length, response.headers, result(content))

    def get(self, path: str) -> Any:
        """The document at C{path}."""
        answer = self.ask("GET", path)
        assert answer.code == 200, answer.body
        return answer.json

    def error(self, method: str, path: str, document: Any = None, **more: Any) -> tuple[int, str, str]:
        """Status, code and message of a refusal."""
        answer = self.ask(method, path, document, **more)
        assert answer.header("Content-Type") == "application/json" and set(answer.json) == {"error"}, answer.body
        return answer.code, answer.json["error"]["code"], answer.json["error"]["message"]
