"""
Who may read what: the rules of C{access}, in the order of the file. Pure.

The first rule that matches decides, and where there is a rule and none matches, the answer is no. Without rules all may
read what is not private. A rule matches when all that it gives does (C{appliance.settings.MatchSettings}). What is of a
private upstream has one condition more for a client that has not said who it is: only a rule that says whom it means,
by C{networks} or C{listeners}, or names that upstream, lets it in. So C{allow: {}} at the end of the rules, meant for
public registries, does not give away what the site's credentials may pull.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from ipaddress import IPv4Address, IPv6Address

from appliance.identity.proxies import parse_address
from appliance.oci.pattern import matches
from appliance.settings import ANY_USER, RuleSettings, Settings

NO_RULE = "no rule matches"
"""Stands for the rule where none of them decided."""


@dataclass(frozen=True, slots=True)
class Decision:
    """
    @ivar allowed: whether it may be read.
    @ivar rule: the rule that decided, as in C{access[2]: deny networks 10.0.0.0/8}, or L{NO_RULE}; empty where there
        are no rules.
    """

    allowed: bool
    rule: str


@dataclass(frozen=True)
class Reading:
    """
    Somebody reads something.

    @ivar user: C{None} for an anonymous client.
    @ivar address: as text; of what is no IP address, as a client at a UNIX socket, it cannot be told in which networks
        it is: none of an allow, all of a deny.
    @ivar listener: the name of the one it came by.
    @ivar upstream: its canonical name.
    @ivar repository: its full name there.
    @ivar private: whether that upstream is.
    @ivar action: C{PULL} or C{LIST}.
    """

    user: str | None
    address: str
    listener: str
    upstream: str
    repository: str
    private: bool
    action: str

    @cached_property
    def place(self) -> str:
        """Upstream and repository."""
        return f"{self.upstream}/{self.repository}"

    @cached_property
    def source(self) -> IPv4Address | IPv6Address | None:
        """The address, C{None} for what is none."""
        return parse_address(self.address)


class AccessRules:
    """The rules of one configuration."""

    def __init__(self, rules: Iterable[RuleSettings] = (), groups: Mapping[str, tuple[str, ...]] | None = None) -> None:
        self._rules = [_Rule(number, rule, groups or {}) for number, rule in enumerate(rules)]

    @classmethod
    def of(cls, settings: Settings) -> AccessRules:
        """Those of a configuration."""
        return cls(settings.access, settings.groups)

    def __len__(self) -> int:
        return len(self._rules)

    def decide(self, reading: Reading) -> Decision:
        """Whether it may be read, and by which rule."""
        for rule in self._rules:
            if rule.matches(reading):
                return Decision(rule.allows, rule.text)
        if self._rules:
            return Decision(False, NO_RULE)
        # The configuration is refused then; should it ever get here, nothing is given away.
        return Decision(not reading.private, "")


class _Rule:
    """
    @ivar allows: what it decides.
    @ivar text: how it is named to people.
    """

    def __init__(self, number: int, rule: RuleSettings, groups: Mapping[str, tuple[str, ...]]) -> None:
        self._match = match = rule.match
        self.allows = rule.allow is not None
        self._users = frozenset(match.users).union(*(groups.get(name, ()) for name in match.groups))
        self.text = f"access[{number}]: {rule}"

    def matches(self, reading: Reading) -> bool:
        match = self._match
        if match.users or match.groups:
            if reading.user is None or not (reading.user in self._users or ANY_USER in match.users):
                return False
        if match.actions and reading.action not in match.actions:
            return False
        if match.listeners and reading.listener not in match.listeners:
            return False
        if match.networks:
            source = reading.source
            if self.allows if source is None else not any(source in network for network in match.networks):
                return False
        patterns = match.repositories
        if self.allows and reading.private and reading.user is None and not (match.networks or match.listeners):
            patterns = tuple(each for each in patterns if each.startswith(f"{reading.upstream}/"))
            return any(matches(each, reading.place) for each in patterns)
        return not patterns or any(matches(each, reading.place) for each in patterns)
