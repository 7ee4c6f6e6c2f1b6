"""[edge] The audit: for each call one event with who, from where, what, and what came of it, at which revision.

Accepted writes and issues, and all refusals, are logged at level INFO or above, under the logger ``mesh.audit``; what
only reads, or tells the same again and again, at level DEBUG.
"""

import logging
from collections.abc import Mapping
from types import TracebackType
from typing import Self

import grpc
import trio
from google.protobuf.message import Message

from controlplane.api.authorize import role_of
from controlplane.api.caller import Caller, Listener
from controlplane.api.convert import abort_of
from controlplane.log import event, redacted
from schemas.errors import InvalidInput, MeshError, PermissionDenied, Problem, Unauthenticated
from trio_grpc import RpcAbort

logger = logging.getLogger("mesh.audit")

# Reading changes nothing; a challenge gives nothing away; reports are what sidecars say of themselves, all the time.
QUIET = frozenset(
    {
        "/mesh.v1.Config/Get",
        "/mesh.v1.Config/List",
        "/mesh.v1.Config/Watch",
        "/mesh.v1.Identity/Challenge",
        "/mesh.v1.Tokens/List",
        "/mesh.v1.Revocations/List",
        "/mesh.v1.Revocations/EtcdList",
        "/mesh.v1.Operators/List",
        "/mesh.v1.Attestors/List",
        "/mesh.v1.Attestors/Where",
        "/mesh.v1.Sidecars/Report",
        "/mesh.v1.Sidecars/List",
        "/mesh.v1.Sidecars/Wait",
        "/mesh.v1.Questions/Answer",
        "/mesh.v1.Authority/Status",
        "/mesh.v1.Authority/Follow",
        "/mesh.v1.Federation/Status",
        "/mesh.v1.Federation/Bundle",
        "/mesh.v1.KeySets/Status",
    }
)


class Audit:
    """Of one call, for whose time it is entered; `caller` and `facts` are filled in as they become known."""

    def __init__(self, path: str, listener: Listener, peer: str, *, stream: bool = False) -> None:
        self._path = path
        self._listener = listener
        self._peer = peer
        self._stream = stream
        self._told = False
        self.caller: Caller | None = None
        self.facts: dict[str, object] = {}
        self.refused_parts: list[str] = []
        """Of a call that was accepted: what was refused within it, and why."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Tells what nobody has told yet: a good end, or one that the caller will not hear of."""
        if self._told:
            return
        for why in self.refused_parts:
            self._tell(logging.INFO, "refused", status=grpc.StatusCode.INVALID_ARGUMENT.name, why=why)
        if error is None:
            self._tell(self._quiet, "accepted")
        elif isinstance(error, trio.Cancelled):
            # Whether a write had happened by then is for the store to say; that it was tried is for us.
            self._tell(logging.WARNING, "abandoned by its caller")
        else:
            self._tell(logging.ERROR, "failed", why=f"a defect of ours: {type(error).__name__}")

    def asked(self, request: Message) -> None:
        """What requests have in common."""
        self._take(request, {"request_id": "request", "key": "key", "force": "force", "reason": "reason"})

    def answered(self, reply: Message) -> None:
        """What answers have in common, where the service has not told it."""
        self._take(reply, {"revision": "revision", "spiffe_id": "identity", "expires": "expires"})

    def _take(self, message: Message, names: Mapping[str, str]) -> None:
        for field, name in names.items():
            value = getattr(message, field, None)
            if value and isinstance(value, str | int):
                self.facts.setdefault(name, value)

    def opened(self) -> None:
        """A stream is accepted when it begins; its end says nothing more, unless it was refused meanwhile."""
        self._tell(self._quiet, "accepted")

    def refused(self, error: MeshError) -> RpcAbort:
        """What the caller is told, without what looks like a secret; once the audit has been told."""
        if isinstance(error, InvalidInput):
            # The caller's own words are repeated to it, and may be a secret in the wrong place.
            said = (Problem(*map(redacted, (one.subject, one.message, one.path, one.remedy))) for one in error.problems)
            error = type(error)(*said)
        abort = abort_of(error)
        # Who may not is worth a warning; what is wrong with the input is the caller's to know.
        serious = isinstance(error, PermissionDenied | Unauthenticated) or abort.code is grpc.StatusCode.INTERNAL
        problems = error.problems if isinstance(error, InvalidInput) else ()
        why = f"{len(problems)} problems, first: {problems[0]}" if len(problems) > 1 else str(error)
        self._tell(logging.WARNING if serious else logging.INFO, "refused", status=abort.code.name, why=why)
        return RpcAbort(abort.code, redacted(abort.message), abort.trailing)

    @property
    def _quiet(self) -> int:
        return logging.DEBUG if self._path in QUIET else logging.INFO

    def _tell(self, level: int, outcome: str, **more: object) -> None:
        self._told = True
        caller = self.caller
        who = {
            "rpc": self._path,
            "caller": caller or "unknown",
            "role": role_of(caller).value if caller else None,
            "listener": self._listener.value,
            "peer": caller.where if caller else self._peer,
        }
        # Nothing that a service tells takes the place of who it was.
        event(logger, level, outcome, **{**who, **self.facts, **more, **who})
