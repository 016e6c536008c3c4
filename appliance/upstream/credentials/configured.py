"""The credentials that the settings name, and what may be used to get them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from twisted.internet.interfaces import IReactorProcess, IReactorTime

from appliance.interfaces import IThreads
from appliance.settings import UpstreamSettings
from appliance.upstream.credentials.acr import Post
from appliance.upstream.credentials.dockerconfig import DockerConfig
from appliance.upstream.credentials.file import PasswordFile, TokenFile
from appliance.upstream.credentials.helper import CredentialHelper
from appliance.upstream.credentials.renewing import RenewingCredential
from appliance.upstream.interfaces import ICredentials, Secret
from appliance.upstream.url import Url


@dataclass(frozen=True)
class CredentialArguments:
    """
    The arguments that credentials are made with; each takes those that it needs.

    @ivar upstream: its configured name, for errors.
    @ivar host: the host that the credentials are for, in lower case and without a port.
    @ivar threads: for calls that block.
    @ivar post: C{post(path, fields)} sends C{fields} as a form (C{application/x-www-form-urlencoded}) to C{path} at
        that host, with its proxy, trust and address rules; C{path} begins with a slash. Fires with the body of a 200,
        of 1 MiB at most. Fails with L{appliance.errors.UpstreamDenied} for 404 and other refusals, else with the
        L{appliance.errors.UpstreamError} for the status; never with what was sent.
    @ivar environ: the environment, as C{HOME} and C{PATH}; not shown, since it may hold secrets.
    @ivar danger_proxy: gives the URL, with user and password, of the proxy to ask https through; C{None}: none.
    """

    upstream: str
    host: str
    clock: IReactorTime
    threads: IThreads
    processes: IReactorProcess
    post: Post
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)
    danger_proxy: Callable[[], str | None] = lambda: None


def credentials_for(settings: UpstreamSettings, url: Url, given: CredentialArguments) -> ICredentials | None:
    """
    Where the secret for C{url} comes from that the settings name a file of, C{None} for an anonymous upstream.

    In C{auth_file} secrets stand by host, and C{url} is shown the one of its own. An upstream with URLs of several
    hosts may have some that want none: those that the file does not name are asked anonymously. The other files hold
    one secret, which every host of the upstream is shown (see L{appliance.explain.warnings}).

    An adapter with a way of its own is asked first, by L{appliance.upstream.interfaces.IAdapter.credentials}.
    """
    if settings.username is not None and settings.password_file is not None:
        password = PasswordFile(settings.username, settings.password_file, given.upstream, given.threads)
        return RenewingCredential(password, given.clock)
    if settings.auth_file is None:
        return token_credentials(settings, given)

    def helper(name: str, source: str) -> CredentialHelper:
        return CredentialHelper(
            name, source, given.upstream, given.clock, given.threads, given.processes, given.environ
        )

    several = len({Url.parse(each).authority for each in settings.urls}) > 1
    config = DockerConfig(settings.auth_file, url, given.upstream, given.threads, helper, or_none=several)
    return RenewingCredential(config, given.clock)


def token_credentials(
    settings: UpstreamSettings, given: CredentialArguments, username: str = "", use: Secret.Use = Secret.Use.BEARER
) -> RenewingCredential | None:
    """
    The token of C{token_file}, C{None} when the settings name none.

    @param use: how it is presented; as a password, with C{username}.
    """
    if settings.token_file is None:
        return None
    token = TokenFile(settings.token_file, given.upstream, given.threads, username, use)
    return RenewingCredential(token, given.clock)
