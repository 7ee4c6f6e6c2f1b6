"""[edge] A Mesh that closes the way to the world outside ends what is open there.

Envoy refuses the next request by its routes. What is open it would let go on: in the proxy port's one filter chain it
can't be told from what is open inside of the mesh, which nobody may cut. So sockets that lead outside are marked.
"""

import logging
from collections.abc import Awaitable, Callable

import trio

from dataplane.ads.server import AdsServer
from dataplane.delivery import Delivery
from schemas.errors import PermissionDenied

# Seconds. An Envoy that has not said after these that it has the new routes may have refused something else: what is
# open ends all the same, and once more after the same time.
PATIENCE_S = 10.0
# Seconds: Envoy says that it has routes before each of its workers goes by them.
AGAIN_S = 1.0
# Seconds, after a refusal: whether the agent may close connections is looked at as often (`cutting`).
RETRY_S = 5.0

log = logging.getLogger("mesh.cutting")


async def end_what_leads_outside(delivery: Delivery, ads: AdsServer, shut: Callable[[], Awaitable[int]]) -> None:
    """Until cancelled, each time that it is forbidden. ads: of `delivery`. shut: ends connections, and says how many
    there were; may raise PermissionDenied: then the listener is one whose drain ends them, if it stays so."""

    def has_acked(revision: int) -> bool:
        return ads.state.connected and ads.acked_revision >= revision

    refusal = ""
    while True:
        closed_at = delivery.outside_closed_at
        if closed_at is None:
            await delivery.outside_closes()
            continue
        with trio.move_on_after(PATIENCE_S):
            while not has_acked(closed_at):
                await ads.changed()
        count, acked = 0, has_acked(closed_at)
        try:
            for pause in (0.0, AGAIN_S):
                await trio.sleep(pause)
                if not delivery.pipeline.compiler.leads_outside:
                    count += await shut()
        except PermissionDenied as error:
            if refusal != str(error):
                refusal = str(error)
                log.error("what is open to the outside goes on, until it is drained: %s", error)
            await trio.sleep(RETRY_S)
            continue
        refusal = ""
        if acked and delivery.outside_closed_at == closed_at:  # else it was opened meanwhile, and closed again
            delivery.outside_closed_at = None
        if count:
            log.info("closed %d connections to the outside: the Mesh allows them no longer", count)
