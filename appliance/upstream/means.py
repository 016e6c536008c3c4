"""What a source of credentials may use of the world around it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorProcess, IReactorTime

from appliance.interfaces import IThreads

#: Sends a form; see L{Means.post}.
Post = Callable[[str, Mapping[str, str]], Deferred[bytes]]


@dataclass(frozen=True)
class Means:
    """
    Given to L{appliance.interfaces.IAdapter.credentials}, and to whoever reads the settings' files.

    @ivar upstream: its configured name, for errors.
    @ivar host: the host that the credentials are for, in lower case and without a port.
    @ivar threads: for calls that block.
    @ivar post: C{post(path, fields)} sends C{fields} as a form (C{application/x-www-form-urlencoded}) to C{path} at
        that host, with its proxy, trust and address rules; C{path} begins with a slash. Fires with the body of a 200,
        of 1 MiB at most. Fails with L{appliance.errors.UpstreamDenied} for 404 and whatever else says no, else with the
        L{appliance.errors.UpstreamError} that says it; never with what was sent.
    @ivar environ: the environment, as C{HOME} and C{PATH}; not shown, since it may hold secrets.
    """

    upstream: str
    host: str
    clock: IReactorTime
    threads: IThreads
    processes: IReactorProcess
    post: Post
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)
