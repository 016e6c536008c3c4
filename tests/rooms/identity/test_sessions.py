"""Sessions of browsers: begun once, known by their secret, ended by time, by their user, or by newer ones."""

from __future__ import annotations

from twisted.internet.task import Clock

from appliance.identity.sessions import DURATION, MOST, Sessions


def test_a_session_is_known_by_its_secret_alone() -> None:
    """Secrets are not guessed from each other, nor from what pages know."""
    sessions = Sessions(Clock())
    one, other = sessions.begin(b"1"), sessions.begin(b"2")
    first, second = sessions.find(one), sessions.find(other)
    assert first is not None and second is not None
    assert (first.grant, second.grant) == (b"1", b"2") and first.csrf != second.csrf
    for wrong in ("", one[:-1], first.csrf, one + "x", "\udcff"):
        assert sessions.find(wrong) is None
    assert one not in repr(first) + repr(vars(sessions)) and first.csrf not in repr(first)


def test_a_session_ends() -> None:
    """After its time, however much it was used; and at once when its user ends it."""
    clock = Clock()
    sessions = Sessions(clock)
    secret, ended = sessions.begin(b"1"), sessions.begin(b"1")
    sessions.end(ended)
    sessions.end("never was")
    assert sessions.find(ended) is None
    clock.advance(DURATION - 1)
    assert sessions.find(secret) is not None
    clock.advance(1)
    assert sessions.find(secret) is None and len(sessions) == 0


def test_there_are_never_more_than_so_many() -> None:
    """The oldest goes."""
    sessions = Sessions(Clock())
    first, second = sessions.begin(b"1"), sessions.begin(b"1")
    for _ in range(MOST - 1):
        sessions.begin(b"1")
    assert len(sessions) == MOST and sessions.find(first) is None and sessions.find(second) is not None
