"""Whether a sidecar fell silent by itself or with many others. Pure.

One alone has died. Many at once are more likely cut off from etcd, and go on answering callers: to take them all out of
discovery would empty services, and throw everything at the few that are left.
"""

from collections.abc import Sequence
from dataclasses import dataclass

# A pulse is renewed each third of its life: who is heard has at least two thirds left, who is cut off soon less.
HEARD_FRACTION = 0.5
# More than one host in five of the mesh, or more than half of the instances of a service.
MESH_LIMIT = 0.2
SERVICE_LIMIT = 0.5


@dataclass(frozen=True, slots=True)
class Pulse:
    """Seconds. left: -1 where it has ended."""

    left: int
    granted: int

    @property
    def is_silent(self) -> bool:
        return self.left < self.granted * HEARD_FRACTION or self.left < 0


def in_bulk(pulses: Sequence[Pulse], limit: float) -> bool:
    """Whether more than `limit` of them are silent. One alone never is a bulk."""
    silent = sum(pulse.is_silent for pulse in pulses)
    return silent > 1 and silent > limit * len(pulses)
