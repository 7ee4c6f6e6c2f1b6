"""[edge] Says when etcd holds far more leases than the mesh can need: somebody floods it.

Any user of etcd may grant leases, a sidecar's read-only one too, as many as it likes and for years. They hold no keys,
but etcd keeps each of them in memory, and nobody is told who granted it.
"""

import logging

import trio

from controlplane.log import event
from controlplane.store.boards import StatusBoard
from controlplane.store.etcd import Store
from schemas.errors import MeshError

# A look is one request, whose answer has some ten bytes a lease.
LOOK_SECONDS = 60.0
# Of each sidecar two, its pulse and its hold; and as many again of such as have just begun anew.
LEASES_PER_SIDECAR = 4
# For locks, and for tooling of whoever runs the mesh.
SPARE = 1000

logger = logging.getLogger(__name__)


class LeaseAlarm:
    """`run` it; `text` is what is wrong, None while nothing is. spare: leases beyond those of sidecars.

    `leases`: how many etcd held at the last look, infinitely many where they can't be listed; None before the first.
    """

    def __init__(self, store: Store, board: StatusBoard, *, spare: int = SPARE) -> None:
        self._store = store
        self._board = board
        self._spare = spare
        self.text: str | None = None
        self.leases: float | None = None

    @property
    def most(self) -> int:
        """As many as the mesh can need."""
        return len(self._board.refs()) * LEASES_PER_SIDECAR + self._spare

    async def run(self) -> None:
        """For ever."""
        await self._board.synced.wait()
        troubled = False
        while True:
            try:
                await self.look()
                troubled = False
            except MeshError as error:
                if not troubled:
                    event(logger, logging.WARNING, "can't count etcd's leases: a flood would not be noticed", why=error)
                troubled = True
            await trio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Counts now. Raises Unavailable."""
        leases = await self._store.count_leases()
        self.leases = float("inf") if leases is None else leases
        sidecars, most = len(self._board.refs()), self.most
        before, self.text = self.text, None
        if leases is None or leases > most:
            held = "more leases than can be listed" if leases is None else f"{leases} leases"
            self.text = (
                f"etcd holds {held}, and {sidecars} sidecars need at most {most}: somebody who has an etcd credential "
                "floods it; see docs/revocation.md, A flood of leases"
            )
            if before is None:
                event(
                    logger, logging.ERROR, "etcd is flooded with leases",
                    leases="too many to list" if leases is None else leases, expected_at_most=most, sidecars=sidecars,
                )  # fmt: skip
        elif before is not None:
            event(logger, logging.INFO, "etcd is flooded with leases no more", leases=leases)
