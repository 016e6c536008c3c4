"""What every L{IThreads} promises."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from appliance.interfaces import IThreads


class ThreadsContract(SynchronousTestCase):
    """Mix in, and say how to make the provider and how to let its work happen."""

    # The mixin itself holds no promise.
    __test__ = False

    @abstractmethod
    def make(self) -> IThreads:
        """A provider."""

    @abstractmethod
    def settle(self) -> None:
        """Return when the work that was asked for is done and its result was delivered."""

    def result(self, deferred: Deferred[Any]) -> Any:
        self.settle()
        return self.successResultOf(deferred)

    def test_provides_the_interface(self) -> None:
        """By zope's C{verifyObject}."""
        verifyObject(IThreads, self.make())

    def test_the_result_is_the_functions(self) -> None:
        """I get what the function returned for my arguments."""
        self.assertEqual(self.result(self.make().call(divmod, 17, 5)), (3, 2))

    def test_a_failure_is_the_functions(self) -> None:
        """The caller gets what the function raised, as it raised it."""
        failing = self.make().call(int, "seven")
        self.settle()
        self.failureResultOf(failing, ValueError)

    def test_cancelling_drops_the_result_and_not_the_work(self) -> None:
        """A file half written is of no use: what was begun is done."""
        done: list[str] = []
        deferred = self.make().call(done.append, "written")
        deferred.addErrback(lambda failure: failure.trap(CancelledError))
        deferred.cancel()
        self.settle()
        self.assertEqual(done, ["written"])
