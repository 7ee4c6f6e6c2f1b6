"""What an attestor is: it looks at evidence and says which services may be issued for it; whoever issues, decides.

A third one is a class with `attest`, a field in ``JoinRequest.evidence``, and a line in `controlplane.server`.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from controlplane.api.call import Call
from schemas.api import mesh_pb2 as pb
from schemas.errors import InvalidInput, PermissionDenied, Problem
from schemas.names import ServiceRef, check_name
from schemas.selectors import ServiceSelector

Use = Callable[[str, float], Awaitable[int | None]]


@dataclass(frozen=True, slots=True)
class Attestation:
    """`selectors`: what the host may be. `by`: who vouches, for messages.

    `use(identity, seconds)` is called once, after all else has succeeded and before anything is answered: it uses up
    what may be used only so often, and gives the revision of that where there is one. It raises Unauthenticated where
    another was faster; within about `seconds` it raises Unavailable where etcd does not say.
    """

    selectors: tuple[ServiceSelector, ...]
    by: str
    use: Use


class Attestor(Protocol):
    async def attest(self, message: pb.JoinRequest, call: Call) -> Attestation:
        """Raises Unauthenticated for evidence that proves nothing; InvalidInput, Unavailable. Changes nothing."""
        ...


def chosen(message: pb.JoinRequest, attestation: Attestation) -> ServiceRef:
    """The service that the host becomes: the one that it names, if the attestor vouches for it.

    Raises InvalidInput where it would have to name one, PermissionDenied for one that it may not be.
    """
    may_be = " or ".join(map(str, attestation.selectors)) or "nothing"
    if not message.namespace and not message.service:
        only = attestation.selectors[0].only if len(attestation.selectors) == 1 else None
        if only is None:
            text = f"names no service, and {attestation.by} vouches for {may_be}"
            raise InvalidInput(Problem("join request", text, "service", "name the service in the sidecar's settings"))
        return only
    wanted = ServiceRef(check_name(message.namespace, "namespace"), check_name(message.service, "service name"))
    if not any(one.selects(wanted) for one in attestation.selectors):
        raise PermissionDenied(f"{attestation.by} vouches for {may_be}, not for {wanted.namespace}/{wanted.name}")
    return wanted
