"""Exit codes of `mesh-controlplane` and `meshadm`: a script can tell what happened without reading the text."""

import enum

from schemas import errors


class ExitCode(enum.IntEnum):
    OK = 0
    UNEXPECTED = 1
    """A bug, or a stored value that can't be understood."""
    BAD_INPUT = 2
    """Wrong usage, configuration or objects; click uses 2 for usage errors too."""
    NOT_FOUND = 3
    CONFLICT = 4
    UNAVAILABLE = 5
    """Something that is needed (etcd, a replica, a port) can't be had; the same command may succeed later."""
    DENIED = 6
    """Not allowed: by a role, by a file's permissions, or for want of an identity."""
    TIMED_OUT = 7
    """Time ran out while waiting for sidecars."""
    REFUSED_BY_SIDECAR = 8
    """A sidecar's Envoy refused the configuration (NACK)."""
    EXPIRING = 9
    """`meshadm check`: something ends sooner than was asked for."""
    ALARM = 10
    """A replica raises an alarm about the whole mesh, such as a flood of leases in etcd."""
    NOT_ENDED = 11
    """What is open and no longer allowed goes on at a sidecar, whose agent can't end it."""


def exit_code_of(error: BaseException) -> ExitCode:
    """The code for what ended a command."""
    match error:
        case errors.InvalidInput():
            return ExitCode.BAD_INPUT
        case errors.NotFound():
            return ExitCode.NOT_FOUND
        case errors.Conflict():
            return ExitCode.CONFLICT
        case errors.Unavailable():
            return ExitCode.UNAVAILABLE
        case errors.PermissionDenied() | errors.Unauthenticated() | PermissionError():
            return ExitCode.DENIED
        case _:
            return ExitCode.UNEXPECTED
