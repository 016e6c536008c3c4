"""Who may read what: the first rule that matches decides, and nothing is given away by one that says less."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance import config
from appliance.cache.rules import NO_RULE, AccessRules, Reading

UPSTREAMS = (
    "upstreams: {docker.io: {url: https://h, aliases: [hub]}, team.example: {url: https://t, private: true},"
    " open.example: {url: https://o}}\n"
)
LISTENERS = "listen: [{endpoint: 'tcp:1', name: nodes}, {endpoint: 'tcp:2'}]\n"
GROUPS = "groups: {ops: [ann, bob], empty: []}\n"


def rules(*written: str) -> AccessRules:
    """Rules as an operator writes them."""
    text = f"{UPSTREAMS}{LISTENERS}{GROUPS}access: [{', '.join(written)}]\n"
    return AccessRules.of(config.parse(text, "/etc/p.yaml"))


def reading(
    place: str = "open.example/a/b",
    user: str | None = None,
    address: str = "10.0.0.7",
    listener: str = "nodes",
    action: str = "pull",
) -> Reading:
    upstream, _, name = place.partition("/")
    return Reading(user, address, listener, upstream, name, upstream == "team.example", action)


def allowed(found: AccessRules, *args: str | None, **more: str | None) -> bool:
    return found.decide(reading(*args, **more)).allowed  # type: ignore[arg-type]


# -- the order ------------------------------------------------------------------------------------------------------


def test_without_rules_everything_is_read_that_is_not_private() -> None:
    """As before there were rules; a private upstream without one is refused at start, and served to nobody here."""
    found = AccessRules()
    assert allowed(found) and allowed(found, user="ann")
    assert not allowed(found, "team.example/a") and not allowed(found, "team.example/a", user="ann")


def test_the_first_rule_that_matches_decides() -> None:
    """One that stands further down changes nothing."""
    found = rules("{deny: {users: ann}}", "{allow: {users: '*'}}", "{deny: {}}")
    assert [allowed(found, user=user) for user in ("ann", "bob", None)] == [False, True, False]


def test_what_no_rule_is_about_is_not_served_once_there_is_one() -> None:
    """A list of those who may is one of who may not."""
    found = rules("{allow: {users: ann}}")
    decision = found.decide(reading(user="bob"))
    assert (decision.allowed, decision.rule) == (False, NO_RULE)


def test_the_decision_names_its_rule_as_it_is_written() -> None:
    """With its place in the file, so that it is found."""
    found = rules(
        "{deny: {networks: [10.9.0.0/16, '::1']}}", "{allow: {groups: ops, repositories: 'hub/**'}}", "{allow: {}}"
    )
    assert found.decide(reading(address="10.9.1.1")).rule == "access[0]: deny networks 10.9.0.0/16 ::1"
    by_group = found.decide(reading("docker.io/library/app", user="bob"))
    assert by_group.rule == "access[1]: allow groups ops, repositories docker.io/**"
    assert found.decide(reading()).rule == "access[2]: allow everything"


# -- what a rule is about -------------------------------------------------------------------------------------------

TABLE: list[tuple[str, dict[str, str | None], bool]] = [
    ("users: [ann, bob]", {"user": "bob"}, True),
    ("users: [ann, bob]", {"user": "Bob"}, False),
    ("users: [ann, bob]", {"user": None}, False),
    ("users: 'system:node:worker-1'", {"user": "system:node:worker-1"}, True),
    ("users: 'system:node:*'", {"user": "system:node:worker-1"}, False),
    ("users: '*'", {"user": "anybody"}, True),
    ("users: '*'", {"user": None}, False),
    ("groups: ops", {"user": "ann"}, True),
    ("groups: ops", {"user": "ops"}, False),
    ("groups: empty", {"user": "ann"}, False),
    ("groups: empty, users: eve", {"user": "eve"}, True),
    ("groups: ops, users: eve", {"user": "ann"}, True),
    ("networks: 10.0.0.0/8", {"address": "10.255.0.1"}, True),
    ("networks: 10.0.0.0/8", {"address": "11.0.0.1"}, False),
    ("networks: 10.0.0.0/8", {"address": "::ffff:10.0.0.1"}, True),
    ("networks: ['2001:db8::/32']", {"address": "2001:db8::1%eth0"}, True),
    ("networks: ['2001:db8::/32']", {"address": "10.0.0.1"}, False),
    ("networks: 192.0.2.7", {"address": "192.0.2.7"}, True),
    ("listeners: nodes", {"listener": "nodes"}, True),
    ("listeners: listen-2", {"listener": "nodes"}, False),
    ("actions: list", {"action": "list"}, True),
    ("actions: list", {"action": "pull"}, False),
    ("repositories: 'open.example/**'", {"place": "open.example/a/b"}, True),
    ("repositories: 'open.example/a/*'", {"place": "open.example/a/b"}, True),
    ("repositories: 'open.example/*'", {"place": "open.example/a/b"}, False),
    ("repositories: '*/a/**'", {"place": "open.example/a/b"}, True),
    ("repositories: '**'", {"place": "open.example/a/b"}, True),
    ("repositories: hub/app", {"place": "docker.io/library/app"}, True),
    ("repositories: 'docker.io/library/*'", {"place": "docker.io/library/app"}, True),
    ("repositories: 'docker.io/**'", {"place": "docker.io.evil/library/app"}, False),
    ("users: ann, networks: 10.0.0.0/8", {"user": "ann", "address": "10.0.0.1"}, True),
    ("users: ann, networks: 10.0.0.0/8", {"user": "ann", "address": "11.0.0.1"}, False),
    ("users: ann, networks: 10.0.0.0/8", {"user": "bob", "address": "10.0.0.1"}, False),
]


@pytest.mark.parametrize(("match", "who", "is_about"), TABLE)
def test_a_rule_is_about_what_has_all_that_it_gives(match: str, who: dict[str, str | None], is_about: bool) -> None:
    """Any member of a list will do, and users and groups are one list; the same for allow and for deny."""
    assert allowed(rules(f"{{allow: {{{match}}}}}"), **who) is is_about
    assert allowed(rules(f"{{deny: {{{match}}}}}", "{allow: {}}"), **who) is not is_about


def test_a_client_without_an_ip_address_is_kept_out_by_networks() -> None:
    """Over a UNIX socket it cannot be told where it is: it is in none that is let in, and in all that are not."""
    assert not allowed(rules("{allow: {networks: 0.0.0.0/0}}"), address="-")
    found = rules("{deny: {networks: 10.9.0.0/16, users: ann}}", "{allow: {}}")
    assert not allowed(found, user="ann", address="-") and allowed(found, user="bob", address="-")


# -- private upstreams ----------------------------------------------------------------------------------------------

PRIVATE: list[tuple[str, bool]] = [
    ("", False),
    ("repositories: '**'", False),
    ("repositories: '*/**'", False),
    ("repositories: 'team.*/**'", False),
    ("repositories: ['open.example/**', '**']", False),
    ("repositories: ['team.example/other', '**']", False),
    ("actions: pull", False),
    ("repositories: 'team.example/**'", True),
    ("repositories: ['open.example/**', 'team.example/a']", True),
    ("networks: 10.0.0.0/8", True),
    ("networks: 11.0.0.0/8", False),
    ("listeners: nodes", True),
    ("listeners: nodes, repositories: '**'", True),
    ("users: '*'", False),
]


@pytest.mark.parametrize(("match", "let_in"), PRIVATE)
def test_an_anonymous_client_gets_into_a_private_upstream_only_where_a_rule_says_so(match: str, let_in: bool) -> None:
    """By saying whom it means, or by the upstream's name; allow: {} at the end does not open what has credentials."""
    assert allowed(rules(f"{{allow: {{{match}}}}}"), "team.example/a") is let_in


@pytest.mark.parametrize("match", ["", "users: '*'", "repositories: '**'", "groups: ops"])
def test_who_is_logged_in_is_under_the_same_rules_everywhere(match: str) -> None:
    """For them a private upstream is one like any other."""
    assert allowed(rules(f"{{allow: {{{match}}}}}"), "team.example/a", user="ann")


def test_a_rule_that_does_not_open_it_leaves_it_to_the_next() -> None:
    """The order is not spoilt by it; and deny needs no name."""
    found = rules("{allow: {}}", "{allow: {repositories: 'team.example/a'}}")
    assert allowed(found, "team.example/a") and not allowed(found, "team.example/b")
    assert not allowed(rules("{deny: {}}", "{allow: {repositories: 'team.example/**'}}"), "team.example/a")


# -- for any rules --------------------------------------------------------------------------------------------------

WHO = ["", "users: ann", "users: '*'", "groups: ops", "users: [bob, eve]"]
WHERE = ["", "networks: 10.0.0.0/8", "networks: ['10.0.0.7', '::/0']", "listeners: nodes"]
WHAT = [
    "",
    "repositories: 'team.example/**'",
    "repositories: ['open.example/a/*', 'docker.io/**']",
    "repositories: '**'",
]
WHICH = ["", "actions: list"]
KINDS = ["allow", "deny"]
readings = st.builds(
    reading,
    st.sampled_from(["open.example/a/b", "team.example/a", "docker.io/library/app"]),
    st.sampled_from([None, "ann", "bob", "eve"]),
    st.sampled_from(["10.0.0.7", "10.1.1.1", "2001:db8::1", "-"]),
    st.sampled_from(["nodes", "listen-2"]),
    st.sampled_from(["pull", "list"]),
)
matches = st.tuples(*map(st.sampled_from, (WHO, WHERE, WHAT, WHICH))).map(lambda given: ", ".join(filter(None, given)))
written = st.lists(st.tuples(st.sampled_from(KINDS), matches), min_size=1, max_size=5)


def as_text(rule: tuple[str, str]) -> str:
    return f"{{{rule[0]}: {{{rule[1]}}}}}"


@given(written, readings)
def test_the_rules_say_the_same_as_each_by_itself_in_its_order(made: list[tuple[str, str]], who: Reading) -> None:
    """What decides is the first that says anything when it stands alone."""
    decision = rules(*map(as_text, made)).decide(who)
    for number, rule in enumerate(made):
        alone = rules(as_text(rule)).decide(who)
        if alone.rule != NO_RULE:
            assert decision.rule == alone.rule.replace("access[0]", f"access[{number}]")
            assert decision.allowed is (rule[0] == "allow")
            return
    assert decision.rule == NO_RULE and not decision.allowed


@given(written, readings, st.sampled_from(KINDS), matches)
def test_a_deny_takes_and_an_allow_gives(made: list[tuple[str, str]], who: Reading, kind: str, match: str) -> None:
    """Wherever a deny is put, no more is served than before; wherever an allow is put, no less."""
    before = rules(*map(as_text, made)).decide(who).allowed
    for at in range(len(made) + 1):
        after = rules(*map(as_text, [*made[:at], (kind, match), *made[at:]])).decide(who).allowed
        assert (before or not after) if kind == "deny" else (after or not before)


@given(written, readings)
def test_nothing_private_is_served_to_a_stranger_whom_no_rule_means(made: list[tuple[str, str]], who: Reading) -> None:
    """An allow lets an anonymous client in only if it has networks, listeners or the upstream's name."""
    if who.private and who.user is None and rules(*map(as_text, made)).decide(who).allowed:
        words = [match for kind, match in made if kind == "allow"]
        assert any(word in match for word, match in product(("networks", "listeners", "team.example/"), words))
