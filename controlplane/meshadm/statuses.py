"""A replica's gRPC status -> the error that it stands for. Pure."""

import enum

from google.protobuf.message import DecodeError

from schemas import errors
from schemas.api import mesh_pb2 as pb
from schemas.errors import InvalidInput, MeshError, Problem
from trio_grpc import RpcError, StatusCode

PROBLEMS_METADATA = "mesh-problems-bin"


class Verdict(enum.Enum):
    """What a failed call says of the others."""

    ANSWER = "answer"
    """The mesh has spoken: another replica would say the same."""
    NEVER_ARRIVED = "never arrived"
    """Another replica may be asked; this one did nothing."""
    UNKNOWN = "unknown"
    """Another replica may be asked; this one may have done it all the same."""


_ELSEWHERE = frozenset({StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED, StatusCode.UNKNOWN, StatusCode.CANCELLED})
# gRPC's own words where no connection came about.
_NEVER_ARRIVED = ("failed to connect to all addresses", "errors resolving", "address lookup failed")
# gRPC's own words for a message above its limit, at either end: with another replica it would be no shorter.
_TOO_LONG = "message larger than max"


def verdict(error: RpcError) -> Verdict:
    if error.code is StatusCode.RESOURCE_EXHAUSTED:
        return Verdict.ANSWER if _TOO_LONG in error.details else Verdict.NEVER_ARRIVED
    if error.code not in _ELSEWHERE:
        return Verdict.ANSWER
    if error.code is StatusCode.UNAVAILABLE and any(words in error.details for words in _NEVER_ARRIVED):
        return Verdict.NEVER_ARRIVED
    return Verdict.UNKNOWN


def reason(error: RpcError) -> str:
    """Why, in few words: the last link of gRPC's chain of reasons."""
    if error.code is StatusCode.DEADLINE_EXCEEDED:
        return "no answer in time"
    text = error.details.rpartition("last error: ")[2]
    if "CERTIFICATE_VERIFY_FAILED" in text or "Hostname Verification" in text:
        return f"its certificate is not one of a replica of this mesh ({text})"
    for separator in (" error: ", "remote host: "):
        text = text.rpartition(separator)[2]
    return text or error.code.name


def mesh_error(error: RpcError, endpoint: str) -> MeshError:
    """For a status that is an answer."""
    text = error.details
    match error.code:
        case StatusCode.INVALID_ARGUMENT:
            return InvalidInput(*_problems(error) or (Problem("the request", text),))
        case StatusCode.NOT_FOUND:
            return errors.NotFound(text)
        case StatusCode.ABORTED:
            return errors.Conflict(text)
        case StatusCode.PERMISSION_DENIED:
            return errors.PermissionDenied(text)
        case StatusCode.UNAUTHENTICATED:
            return errors.Unauthenticated(text)
        case StatusCode.DATA_LOSS:
            return errors.Corrupt(Problem(f"replica {endpoint}", text))
        case StatusCode.UNIMPLEMENTED:
            return MeshError(f"replica {endpoint} does not know this call: it is of another version than meshadm")
    return MeshError(f"replica {endpoint}: {error}; its log says more")


def _problems(error: RpcError) -> tuple[Problem, ...]:
    for key, value in error.trailing:
        if key == PROBLEMS_METADATA and isinstance(value, bytes):
            try:
                items = pb.ProblemList.FromString(value).problems
            except DecodeError:
                return ()
            return tuple(Problem(one.subject, one.message, one.path, one.remedy) for one in items)
    return ()
