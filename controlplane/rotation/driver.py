"""[edge] Takes the next step of a rotation as soon as its gate opens, and starts one well before a key ends.

Every replica runs it. What is next follows from what etcd holds, never from what this replica did before: one that dies
between any two instructions is followed by another. The lock keeps them out of each other's way; the guards of the
transaction keep them from harm.
"""

import logging
from collections.abc import Callable

import trio

from controlplane.ca import rotation
from controlplane.ca.facts import is_complete
from controlplane.ca.gates import Hold
from controlplane.ca.rotation import Activate, Due, Prepare, Step
from controlplane.log import event
from controlplane.rotation import external
from controlplane.rotation.expiry import Watch
from controlplane.rotation.look import Look
from controlplane.rotation.steps import CaSteps, GateClosed
from controlplane.rotation.upstream import UpstreamSigner
from controlplane.rotation.write import Actor
from controlplane.store.boards import Held, MeshView, StatusBoard
from schemas.errors import Conflict, MeshError, NotFound
from schemas.records import Rotation, SealedKey

# Between two looks when nothing is under way: an active key has weeks left when it is to be replaced.
IDLE_SECONDS = 60.0
# While a rotation waits: what holds it back is mostly told by etcd's watch; this is for what only time changes.
WAITING_SECONDS = 5.0
# Statuses come in bursts as sidecars take up a bundle: one look for all that arrive within this.
COLLECT_SECONDS = 0.5
# Another replica has just done the step, or holds the lock.
AGAIN_SECONDS = 1.0
# After an upstream signer has failed: an issuing key has weeks left, and the CA above may count requests.
SIGN_AGAIN_SECONDS = 60.0

logger = logging.getLogger(__name__)


class Rotator:
    """Feed `rotation` by `follow`; then `run`. fraction: random numbers in [0, 1), to keep replicas apart.

    upstream: has issuing keys signed, instead of the mesh's own root.
    """

    def __init__(
        self,
        steps: CaSteps,
        view: MeshView,
        board: StatusBoard,
        watch: Watch,
        fraction: Callable[[], float],
        upstream: UpstreamSigner | None = None,
    ) -> None:
        self._steps = steps
        self._view = view
        self._board = board
        self._watch = watch
        self._fraction = fraction
        self._upstream = upstream
        self._sign_after = float("-inf")
        self._wake = trio.Event()
        self._under_way = False
        self._told = ""
        self._actor = Actor("automatic", "this replica")
        self.rotation = Held(self._woken)

    async def run(self) -> None:
        """For ever. Raises nothing: what fails is logged and tried again."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follow_keys)
            nursery.start_soon(self._follow_sidecars)
            await self._view.wait_synced()
            while True:
                self._wake = trio.Event()
                try:
                    wait = await self.advance()
                except GateClosed:  # somebody has said something new meanwhile
                    wait = AGAIN_SECONDS
                except (Conflict, NotFound):  # another replica was faster
                    wait = AGAIN_SECONDS * (0.5 + self._fraction())
                except MeshError as error:
                    self._tell(logging.WARNING, "the CA's life is held up", why=str(error))
                    wait = WAITING_SECONDS
                with trio.move_on_after(wait):
                    await self._wake.wait()
                    await trio.sleep(COLLECT_SECONDS)

    async def advance(self) -> float:
        """One step where one is due. Seconds until the next look."""
        seen = await self._steps.look()
        self._watch.look(seen)
        self._under_way = seen.rotation is not None
        await self._steps.forget(seen.forgettable)
        if seen.rotation is not None:
            return await self._go_on(seen, seen.rotation)
        if self._upstream is not None and (over := rotation.retired_roots(seen.facts)):
            await self._steps.remove(over[0], self._actor)
            return 0
        due = rotation.due(seen.facts) if self._upstream is None else rotation.due_upstream(seen.facts)
        if due is not None and not due.by_hand:
            await self._begin(seen, due)
            return 0
        if seen.short_bound is not None:
            await self._steps.raise_leaf_bound(self._actor)
            return 0
        return IDLE_SECONDS * (0.5 + self._fraction())

    async def _begin(self, seen: Look, due: Due) -> None:
        roles = {seen.facts.keys[one].role for one in due.replaces}
        role = "mesh-root" if "mesh-root" in roles else "mesh-issuing"
        await self._steps.start(role, self._actor, why=due.why)

    async def _go_on(self, seen: Look, current: Rotation) -> float:
        decision = rotation.next_step(current, seen.facts)
        actor = Actor(f"{current.by}, by rotation {current.id}", "this replica")
        if decision.step is None:
            await self._steps.finish(actor)
            return 0
        if self._upstream is not None and _unsigned(decision.step, seen):
            wait = self._sign_after - trio.current_time()
            if wait <= 0:
                await self._have_signed(self._upstream, actor)
            return max(0, wait)
        if decision.holds and not current.force:
            self._tell_holds(decision.step, decision.holds)
            opens = [hold.until for hold in decision.holds if hold.until is not None]
            soonest = min(opens, default=seen.facts.now + WAITING_SECONDS) - seen.facts.now
            return max(AGAIN_SECONDS, min(WAITING_SECONDS, soonest))
        await self._take(decision.step, actor, current.force)
        return 0

    async def _have_signed(self, upstream: UpstreamSigner, actor: Actor) -> None:
        done, csr = await external.request(self._steps, actor)  # the one that waits
        try:
            chain = await upstream.sign(csr)
            keys = (await self._steps.look()).facts.keys
            if _waits(keys.get(done.keys[0])):  # no other replica was faster
                await external.install(self._steps, chain, actor)
        except MeshError:
            self._sign_after = trio.current_time() + SIGN_AGAIN_SECONDS
            raise

    async def _take(self, step: Step, actor: Actor, force: bool) -> None:
        if isinstance(step, Prepare) and step.role == "mesh-issuing" and self._upstream is not None:
            await external.request(self._steps, actor)
        elif isinstance(step, Prepare):
            await self._steps.prepare(step, actor)
        elif isinstance(step, Activate):
            await self._steps.activate(step.key, actor, force=force)
        else:
            await self._steps.remove(step.keys, actor, force=force)

    # -- what wakes it

    def _woken(self) -> None:
        self._wake.set()

    async def _follow_keys(self) -> None:
        while True:
            await self._view.wait_change(self._view.version)
            self._wake.set()

    async def _follow_sidecars(self) -> None:
        with self._board.subscribe() as subscription:
            while True:
                await subscription.take()
                if self._under_way:
                    self._wake.set()

    # -- what it says

    def _tell_holds(self, step: Step, holds: tuple[Hold, ...]) -> None:
        shown = "; ".join(map(str, holds[:3])) + (f"; and {len(holds) - 3} more" if len(holds) > 3 else "")
        self._tell(logging.INFO, "a step of the rotation waits", step=str(step), held_back_by=shown)

    def _tell(self, level: int, message: str, **fields: str) -> None:
        """The same is said once."""
        text = f"{message} {fields}"
        if text != self._told:
            self._told = text
            event(logger, level, message, **fields)


def _unsigned(step: Step, seen: Look) -> bool:
    return isinstance(step, Activate) and _waits(seen.facts.keys.get(step.key))


def _waits(key: SealedKey | None) -> bool:
    """For its certificate."""
    return key is not None and not is_complete(key)
