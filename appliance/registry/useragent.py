"""What a client says of itself. Pure."""

from __future__ import annotations

import re

# docker and dockerd: "docker/29.0 go/go1.25 ... os/linux arch/arm64 UpstreamClient(...)".
_PLATFORM = re.compile(r"(?:^|[ (])os/([a-z0-9]{1,20}) arch/([a-z0-9_]{1,20})(?:[ )]|$)")


def platform_of(user_agent: str | None) -> str | None:
    """The platform a client runs on, as in C{linux/arm64}; C{None} when it does not say, as most do not."""
    found = None if user_agent is None else _PLATFORM.search(user_agent)
    return None if found is None else f"{found[1]}/{found[2]}"
