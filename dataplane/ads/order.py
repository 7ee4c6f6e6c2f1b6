"""The push order: what must have been acked before what, as a table. Steps that may be sent are sent in its order.

Make before break: at no moment may Envoy hold a route or a listener that leads to a cluster which is not there, or
not yet warm. So what is referred to comes first, and goes last.

A step waits only for what was owed *when its own change came*, or before: later churn, of endpoints say, can't starve
it. It never waits for a type that nobody has asked for: Envoy subscribes to a child only after it was given the
parent (EDS after CDS, RDS after LDS, LDS after the first clusters are warm), so that would wait for ever.

And children never wait for the *ack* of their parent: once it runs, Envoy withholds the ack of clusters until all of
them are warm, and they warm only when their endpoints and secrets have come. So that ack is worth waiting for before
routes are sent, and a deadlock before endpoints are.
"""

from enum import Enum
from typing import NamedTuple

from dataplane.compile.resources import CLUSTER, ENDPOINTS, EXTENSION, LISTENER, ROUTES, RUNTIME, SECRET


class Act(Enum):
    PUT = "put"
    REMOVE = "remove"


class Step(NamedTuple):
    """One kind of thing to send, and the kinds of things that come before it."""

    type_url: str
    act: Act
    acked: tuple[tuple[str, Act], ...] = ()
    """Must have been acked, or refused."""
    not_refused: tuple[str, ...] = ()
    """Types of which nothing may be refused in a newer version: Envoy still works with the older one, and that may
    need what this step takes away."""


PUT_CLUSTER = (CLUSTER, Act.PUT)
PUT_ENDPOINTS = (ENDPOINTS, Act.PUT)
PUT_SECRET = (SECRET, Act.PUT)
PUT_LISTENER = (LISTENER, Act.PUT)
PUT_ROUTES = (ROUTES, Act.PUT)
PUT_EXTENSION = (EXTENSION, Act.PUT)
REMOVE_LISTENER = (LISTENER, Act.REMOVE)
REMOVE_ROUTES = (ROUTES, Act.REMOVE)
REMOVE_EXTENSION = (EXTENSION, Act.REMOVE)
REMOVE_CLUSTER = (CLUSTER, Act.REMOVE)

STEPS: tuple[Step, ...] = (
    # Refers to nothing, and a starting Envoy asks for nothing else before it has it.
    Step(RUNTIME, Act.PUT),
    # Clusters lead nowhere but down to their own children: nothing to wait for.
    Step(*PUT_CLUSTER),
    # New endpoints may need the new cluster (another port, TLS), and a changed cluster warms with endpoints that come
    # *after* it: being the next step, they follow it on the stream. No more can be asked for: see above.
    Step(*PUT_ENDPOINTS),
    # Secrets refer to nothing, and both clusters and listeners warm until they have theirs: as soon as asked for.
    Step(*PUT_SECRET),
    # Filters of connections lead to clusters. Those must be warm: acked, as are their endpoints and secrets (the first
    # clusters of a starting Envoy are acked before they are warm).
    Step(*PUT_EXTENSION, acked=(PUT_CLUSTER, PUT_ENDPOINTS, PUT_SECRET)),
    # A listener leads to clusters through its routes and filters. Filters that Envoy still has for a chain which drains
    # judge at once in a chain that comes back: those have to be the new ones.
    Step(*PUT_LISTENER, acked=(PUT_CLUSTER, PUT_ENDPOINTS, PUT_SECRET, PUT_EXTENSION)),
    # Routes lead to clusters; and may rely on filters that the same change adds to the listener.
    Step(*PUT_ROUTES, acked=(PUT_CLUSTER, PUT_ENDPOINTS, PUT_SECRET, PUT_LISTENER)),
    # From here on removals, and backwards: the referrer goes before what it refers to. They wait until everything new
    # is in place, since it is the new routes and listeners that let go of the old clusters.
    Step(*REMOVE_LISTENER, acked=(PUT_LISTENER, PUT_ROUTES, PUT_EXTENSION)),
    # A listener that has routes by now, and had a filter, or the other way round, is acked before it has got them, and
    # the old one is in use till then: Envoy takes a filter from it at once.
    Step(*REMOVE_ROUTES, acked=(PUT_LISTENER, PUT_ROUTES, PUT_EXTENSION, REMOVE_LISTENER), not_refused=(LISTENER,)),
    Step(*REMOVE_EXTENSION, acked=(PUT_LISTENER, PUT_ROUTES, PUT_EXTENSION, REMOVE_LISTENER), not_refused=(LISTENER,)),
    Step(
        *REMOVE_CLUSTER,
        # Not after new clusters: the routes and listeners to them have waited for those already, and Envoy does not ack
        # a new cluster while an old one is warming that may never be warm.
        acked=(PUT_LISTENER, PUT_ROUTES, PUT_EXTENSION, REMOVE_LISTENER, REMOVE_ROUTES, REMOVE_EXTENSION),
        not_refused=(LISTENER, ROUTES, EXTENSION),
    ),
    # Children of removed parents. By now Envoy has unsubscribed from most of them, and nothing is left to send.
    Step(ENDPOINTS, Act.REMOVE, acked=(PUT_CLUSTER, REMOVE_CLUSTER)),
    Step(RUNTIME, Act.REMOVE),
    Step(SECRET, Act.REMOVE, acked=(PUT_CLUSTER, PUT_LISTENER, REMOVE_LISTENER, REMOVE_CLUSTER)),
)

TYPES: tuple[str, ...] = (RUNTIME, CLUSTER, ENDPOINTS, LISTENER, ROUTES, EXTENSION, SECRET)

WILDCARD_TYPES = frozenset({CLUSTER, LISTENER})
"""Types for which a first request without names means "all" (xDS protocol, "How the client specifies what resources
to return"), and for which a state-of-the-world response always holds the full set."""

RESENT_WITH_PARENT = frozenset({ENDPOINTS})
"""Children that are sent again whenever a parent was sent: a changed cluster warms as a new object that waits for its
endpoints, but Envoy, being subscribed to that name already, does not ask again. Routes, filters and secrets are held by
name and configuration source in Envoy, shared by old and new parent: a changed parent finds them there."""
