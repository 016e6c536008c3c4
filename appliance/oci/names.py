"""
Names of repositories and tags.

Grammar: OCI distribution specification, "Pulling manifests". A name is checked component by component, so that no
input makes the check take more than linear time. Apply these to the decoded path.
"""

from __future__ import annotations

import re

from appliance.errors import NameInvalid, TagInvalid
from appliance.oci.digest import Digest

#: The longest repository name, in characters.
MAX_REPOSITORY = 255

_COMPONENT = re.compile(r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*")
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")

#: How much of a wrong text an error repeats, in characters.
_SHOWN = 160


def parse_repository(text: str) -> str:
    """C{text}, when it is a repository name: components joined by slashes. Raises L{NameInvalid}."""
    if len(text) > MAX_REPOSITORY:
        raise NameInvalid(f"repository name of {len(text)} characters: {MAX_REPOSITORY} are allowed")
    for component in text.split("/"):
        if _COMPONENT.fullmatch(component) is None:
            raise NameInvalid(f"{text!r} is no repository name: {component!r} cannot be a part of one")
    return text


def is_tag(text: str) -> bool:
    """Whether C{text} is a tag."""
    return _TAG.fullmatch(text) is not None


def parse_tag(text: str) -> str:
    """C{text}, when it is a tag. Raises L{TagInvalid}."""
    if not is_tag(text):
        raise TagInvalid(f"{text[:_SHOWN]!r} is no tag: 1 to 128 of letters, digits, '_', '.' and '-'")
    return text


def parse_reference(text: str) -> str | Digest:
    """
    What stands after C{/manifests/}: a L{Digest} when it holds a colon, which no tag can, else a tag.

    Raises L{DigestInvalid} or L{TagInvalid}.
    """
    return Digest.parse(text) if ":" in text else parse_tag(text)
