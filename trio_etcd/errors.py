"""Typed errors. Each says whose fault it is, and whether a write may have happened all the same.

EtcdError
├── CallerError   the request, the credential or the revision is wrong: the same call will fail again
├── ServerError   etcd refused or broke: somebody has to look at it
└── Unavailable   nobody reached, or no answer in time: unknown, later it may work
"""

import enum
from collections.abc import Callable

from trio_grpc import RpcError, StatusCode
from trio_grpc.http2 import NOT_CONNECTED, TLS_FAILED


class Fault(enum.Enum):
    """Who has to do something about it."""

    CALLER = "caller"
    SERVER = "server"
    UNKNOWN = "unknown"


class EtcdError(Exception):
    """Root of all errors of this package.

    `maybe_applied`: the call was a write and etcd may have carried it out. `retryable`: etcd certainly did nothing,
    and the same call may succeed at once or after a short wait. `endpoint` is where it happened, if anywhere.
    """

    fault = Fault.UNKNOWN

    def __init__(
        self, message: str, *, endpoint: str = "", maybe_applied: bool = False, retryable: bool = False
    ) -> None:
        super().__init__(message)
        self.message = message
        self.endpoint = endpoint
        self.maybe_applied = maybe_applied
        self.retryable = retryable

    def __str__(self) -> str:
        where = f" (etcd at {self.endpoint})" if self.endpoint else ""
        doubt = "; it is unknown whether the write was applied" if self.maybe_applied else ""
        return f"{self.message}{where}{doubt}"


class CallerError(EtcdError):
    """The caller's request can't succeed as it is."""

    fault = Fault.CALLER


class InvalidRequest(CallerError):
    """Malformed, a key twice in one transaction, or otherwise against etcd's rules."""


class RequestTooLarge(InvalidRequest):
    """Above `--max-request-bytes`, 1.5 MiB by default. Nothing was written."""


class TooManyOperations(InvalidRequest):
    """Above `--max-txn-ops`, 128 by default. Nothing was written."""


class PermissionDenied(CallerError):
    """The user has no permission for this key range or operation."""


class Unauthenticated(CallerError):
    """Auth is on and the certificate names no user (its CN), or none was shown."""


class CredentialsRefused(CallerError):
    """TLS failed for good: etcd refused our certificate, or we refused etcd's. Retrying without a change is useless."""


class NotFound(CallerError):
    """The lease, user or role does not exist."""


class LeaseNotFound(NotFound):
    """The lease has expired, was revoked or never existed."""


class AlreadyExists(CallerError):
    """The lease, user or role exists already, or the role has been granted."""


class FutureRevision(CallerError):
    """The revision has not happened yet, on this store."""


class Compacted(CallerError):
    """The history asked for is gone: list again. `compact_revision` is the oldest that is left, 0 when not told."""

    def __init__(self, message: str, *, compact_revision: int = 0, endpoint: str = "") -> None:
        super().__init__(message, endpoint=endpoint)
        self.compact_revision = compact_revision


class StoreReplaced(CallerError):
    """Revisions went back or the cluster is another one (a restore): what was watched is no more, list again."""


class LeaseLost(EtcdError):
    """A lease that was kept alive has expired, was revoked, or could not be renewed within its time to live."""

    fault = Fault.UNKNOWN


class ServerError(EtcdError):
    """etcd could not do it, and trying again soon is unlikely to help."""

    fault = Fault.SERVER


class NoSpace(ServerError):
    """The database quota is used up (NOSPACE alarm): compact, defragment, disarm. Reads and deletes still work."""


class Corrupt(ServerError):
    """The CORRUPT alarm: members disagree about the data. Operators must act."""


class Overloaded(ServerError):
    """Too many requests in flight; nothing was done, try later."""


class ResponseTooLarge(ServerError):
    """The answer exceeds what this client accepts in one message: ask for fewer keys."""


class Unavailable(EtcdError):
    """No endpoint answered. For writes see `maybe_applied`."""


class DeadlineExceeded(Unavailable):
    """No answer within the call's timeout."""


class NoLeader(Unavailable):
    """The member that was asked has lost its leader: no quorum, or it is cut off."""


# etcd's own words after "etcdserver: " or "mvcc: " (etcd api/v3rpc/rpctypes/error.go), the first match counts.
_BY_WORDS: tuple[tuple[str, Callable[..., EtcdError]], ...] = (
    ("required revision has been compacted", Compacted),
    ("required revision is a future revision", FutureRevision),
    ("database space exceeded", NoSpace),
    ("request is too large", RequestTooLarge),
    ("too many operations in txn request", TooManyOperations),
    ("requested lease not found", LeaseNotFound),
    ("lease already exists", AlreadyExists),
    ("permission denied", PermissionDenied),
    ("user name is empty", Unauthenticated),
    ("authentication failed", Unauthenticated),
    ("invalid auth token", Unauthenticated),
    ("user name already exists", AlreadyExists),
    ("role name already exists", AlreadyExists),
    ("user name not found", NotFound),
    ("role name not found", NotFound),
    ("role is not granted to the user", NotFound),
    ("permission is not granted to the role", NotFound),
    ("too many requests", Overloaded),
    ("corrupt cluster", Corrupt),
    ("no leader", NoLeader),
)

_BY_CODE: dict[StatusCode, type[EtcdError]] = {
    StatusCode.UNAVAILABLE: Unavailable,
    StatusCode.CANCELLED: Unavailable,  # our channel was closed under the call, or a proxy gave up
    StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    StatusCode.PERMISSION_DENIED: PermissionDenied,
    StatusCode.UNAUTHENTICATED: Unauthenticated,
    StatusCode.INVALID_ARGUMENT: InvalidRequest,
    StatusCode.FAILED_PRECONDITION: InvalidRequest,
    StatusCode.NOT_FOUND: NotFound,
    StatusCode.ALREADY_EXISTS: AlreadyExists,
    StatusCode.DATA_LOSS: Corrupt,
}

# A failed handshake; or a refused certificate: in TLS 1.3 a server says so only after the client has finished its side.
_TLS_WORDS = (TLS_FAILED,)

# The request never left this process, so a write can't have been applied.
_NEVER_SENT = (NOT_CONNECTED,)

# etcd rejected the proposal because its auth store changed meanwhile; it did nothing.
_AUTH_CHANGED = "revision of auth store is old"


def from_rpc(failure: RpcError, *, what: str, endpoint: str, write: bool) -> EtcdError:
    """The typed error for a failed call of `what` at `endpoint`."""
    details = failure.details
    message = f"{what}: {failure.code.name}: {details}"
    if _AUTH_CHANGED in details:
        return Unavailable(message, endpoint=endpoint, retryable=True)
    for words, kind in _BY_WORDS:
        if words in details:
            if issubclass_of_unavailable(kind):
                return kind(message, endpoint=endpoint, maybe_applied=write)
            return kind(message, endpoint=endpoint)
    never_sent = any(details.startswith(words) for words in _NEVER_SENT)
    if failure.code is StatusCode.UNAVAILABLE and any(words in details for words in _TLS_WORDS):
        advice = "check the client certificate, its authority and its dates, and the CA given for etcd"
        return CredentialsRefused(f"{message}; {advice}", endpoint=endpoint, maybe_applied=write and not never_sent)
    if failure.code is StatusCode.RESOURCE_EXHAUSTED:
        larger = "larger than max" in details  # gRPC's own receive limit
        return (ResponseTooLarge if larger else Overloaded)(message, endpoint=endpoint, maybe_applied=write and larger)
    kind = _BY_CODE.get(failure.code, ServerError)
    if issubclass(kind, Unavailable):
        return kind(message, endpoint=endpoint, maybe_applied=write and not never_sent, retryable=never_sent)
    if kind is ServerError:  # UNKNOWN, INTERNAL, ABORTED: etcd says too little to rule out that it acted
        return kind(message, endpoint=endpoint, maybe_applied=write)
    return kind(message, endpoint=endpoint)


def issubclass_of_unavailable(kind: Callable[..., EtcdError]) -> bool:
    """True for errors that leave a write's outcome open."""
    return isinstance(kind, type) and issubclass(kind, Unavailable)
