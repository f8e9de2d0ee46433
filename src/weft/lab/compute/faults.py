"""What is to go wrong. A test orders faults, `api` takes them, and each is counted as it is taken, so that a test can
assert that it really happened.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from weft.lab.compute.refusal import Refusal

Kind = Literal["refuse", "html", "drop", "lose", "operation", "slow"]


class Fault(msgspec.Struct, kw_only=True):
    """An order. `method`: of which calls (routes.insert, routes.*, *, metadata.token). `kind`:

    refuse     answer `status` (with `reason`, `message`, Retry-After: `retry_after`), and do nothing
    html       the same as Google's front ends answer: no JSON
    drop       close the connection, and do nothing
    lose       do it, and close the connection instead of answering
    operation  accept it; its operation ends with the error `reason` (QUOTA_EXCEEDED, INTERNAL_ERROR, …), and nothing
               was done, or it was all the same with `done`
    slow       wait for `delay` seconds first

    `times`: so many calls, None = without end. `share`: this part of the calls, by chance. `when`: only if the
    request's path or body holds this text. `taken`: how often it happened."""

    method: str
    kind: Kind = "refuse"
    status: int = 503
    reason: str = ""
    message: str = ""
    retry_after: float | None = None
    delay: float = 0.0
    done: bool = False
    times: int | None = 1
    share: float = 1.0
    when: str = ""
    taken: int = 0

    @property
    def spent(self) -> bool:
        """Whether all of it has happened."""
        return self.times is not None and self.taken >= self.times

    def refusal(self) -> Refusal:
        message = self.message or f"The service is currently unavailable (ordered: {self.status})."
        return Refusal(self.status, message, self.reason, self.retry_after, html=self.kind == "html")


@dataclass(slots=True)
class Faults:
    """All orders, the oldest first. `chance`: decides for those with a share."""

    chance: random.Random
    orders: list[Fault] = field(default_factory=list)

    def order(self, fault: Fault) -> Fault:
        self.orders.append(fault)
        return fault

    def fail(
        self, method: str, status: int = 503, times: int | None = 1, reason: str = "", share: float = 1.0
    ) -> Fault:
        """Refuse the next `times` calls, or `share` of them."""
        return self.order(Fault(method=method, status=status, times=times, reason=reason, share=share))

    def lose(self, method: str, times: int | None = 1, share: float = 1.0) -> Fault:
        """Do the work, and lose the answer."""
        return self.order(Fault(method=method, kind="lose", times=times, share=share))

    def fail_operation(
        self, method: str, code: str = "INTERNAL_ERROR", times: int | None = 1, share: float = 1.0
    ) -> Fault:
        """Accept, and end the operation with an error."""
        return self.order(Fault(method=method, kind="operation", reason=code, times=times, share=share))

    def peering(self, times: int | None = 1, share: float = 1.0) -> Fault:
        """What Google says to an insertion while its network is being peered: 400, and yet it will pass."""
        text = "There is a peering operation in progress on the local or peer network. Try again later."
        order = Fault(method="routes.insert", status=400, message=text, times=times, share=share)
        return self.order(order)

    def clear(self) -> None:
        """No more faults; what was ordered keeps its count."""
        self.orders.clear()

    def take(self, method: str, text: str = "") -> Fault | None:
        """The fault that this call meets, counted; None if it meets none."""
        for fault in self.orders:
            if fault.spent or not _is_meant(fault.method, method) or fault.when not in text:
                continue
            if fault.share < 1 and self.chance.random() >= fault.share:
                continue
            fault.taken += 1
            return fault
        return None


def _is_meant(pattern: str, method: str) -> bool:
    if pattern.endswith("*"):
        is_other = method.startswith(("metadata.", "oauth2.")) and pattern == "*"
        return method.startswith(pattern[:-1]) and not is_other
    return pattern == method
