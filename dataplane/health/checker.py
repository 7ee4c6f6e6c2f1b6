"""[edge] The loop that asks the app."""

import logging
from collections.abc import Awaitable, Callable

import trio

from dataplane.health.plan import Plan
from dataplane.health.probes import Failed, probe
from dataplane.health.verdict import Verdict

log = logging.getLogger("mesh.health")


class AppHealth:
    """`run` it in a nursery. `changed` is called whenever the verdict, or its reason, is another one."""

    def __init__(
        self, changed: Callable[[], None], *, healthy: bool, ask: Callable[[Plan], Awaitable[None]] = probe
    ) -> None:
        """healthy: what to go by until the first checks have been made, where there is a check from the beginning."""
        self._changed = changed
        self._probe = ask
        self._verdict = Verdict(healthy)
        self._plan: Plan | None = None
        self._fault: str | None = None
        self._replanned = trio.Event()
        self._begun = False

    @property
    def healthy(self) -> bool:
        """Whether the instance may be in discovery: without a check always."""
        return self._plan is None or self._verdict.healthy

    @property
    def said(self) -> str:
        """For the status; empty where nothing is checked."""
        if self._fault is not None:
            return f"not checked: {self._fault}"
        return "" if self._plan is None else str(self._verdict)

    def use(self, plan: Plan | str | None) -> None:
        """From now on; a text says why there is none. The verdict so far stays; who was not checked so far counts as
        well: a check that is added must not take all instances out of discovery until each has answered."""
        new, fault = (None, plan) if isinstance(plan, str) else (plan, None)
        if fault is not None and fault != self._fault:
            log.error("the app is not checked: %s", fault)
        if self._begun and self._plan is None and new is not None:
            self._verdict = Verdict(True)
        self._begun = True
        if (new, fault) != (self._plan, self._fault):
            self._plan, self._fault = new, fault
            self._replanned.set()

    async def run(self) -> None:
        """Until cancelled: at once, then every interval."""
        while True:
            self._replanned = trio.Event()
            plan = self._plan
            if plan is not None:
                await self._ask(plan)
            with trio.move_on_after(plan.interval if plan is not None else float("inf")):
                await self._replanned.wait()

    async def _ask(self, plan: Plan) -> None:
        failure = None
        try:
            await self._probe(plan)
        except Failed as error:
            failure = str(error)
        if self._plan is not plan:
            return  # what was asked is no longer the question
        before = self._verdict
        self._verdict = before.after(
            failure, unhealthy_threshold=plan.unhealthy_threshold, healthy_threshold=plan.healthy_threshold
        )
        if self._verdict.healthy != before.healthy:
            text = "the app is well: in discovery" if self._verdict.healthy else "the app is not well: out of discovery"
            log.warning("%s (%s)", text, self._verdict)
        if str(self._verdict) != str(before):
            self._changed()
