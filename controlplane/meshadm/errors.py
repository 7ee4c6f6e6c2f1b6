"""What ends a command of meshadm besides the errors that all of the mesh has."""

from collections.abc import Sequence
from dataclasses import dataclass

from controlplane.exit_codes import ExitCode, exit_code_of
from controlplane.meshadm.table import count
from schemas.errors import MeshError, Unavailable


@dataclass(frozen=True, slots=True, order=True)
class Refusal:
    """A resource that a sidecar's Envoy refused, in Envoy's own words."""

    sidecar: str
    resource: str
    message: str


class RefusedBySidecar(MeshError):
    """The change is in, and at least one sidecar goes on with its last good configuration instead."""

    def __init__(self, revision: int, refusals: Sequence[Refusal]) -> None:
        refused = count(len(refusals), "resource of it was", "resources of it were")
        lines = [f"revision {revision} is written, and {refused} refused by Envoy:"]
        lines += [f"{one.sidecar}: {one.resource}: {one.message}" for one in refusals]
        lines.append("those sidecars run their last good configuration; mend the object and apply it again")
        super().__init__("\n".join(lines))
        self.refusals = tuple(refusals)


class OpenGoesOn(MeshError):
    """Sidecars that can't end what is open and no longer allowed. revision: of a change that they run; 0: of none."""

    def __init__(self, sidecars: Sequence[tuple[str, str]], revision: int = 0) -> None:
        where = count(len(sidecars), "sidecar", "sidecars")
        runs = f"revision {revision} is in force, but " if revision else ""
        lines = [f"{runs}what is open and no longer allowed goes on at {where}:"]
        lines += [f"{name}: {why or 'it does not say why'}" for name, why in sidecars]
        lines.append(
            "until that is mended, `systemctl restart mesh-sidecar@…` there ends it, with all else that is open"
        )
        super().__init__("\n".join(lines))
        self.sidecars = tuple(sidecars)


class WaitTimedOut(MeshError):
    """The change is in, and some sidecars have not said that they run it."""

    def __init__(self, revision: int, seconds: float, total: int, pending: Sequence[str], why: str = "") -> None:
        missing = ", ".join(pending) if pending else why or "no replica told how far the sidecars are"
        super().__init__(
            f"revision {revision} is written, and after {seconds:g} s not every sidecar runs it\n"
            f"pending ({len(pending)} of {total}): {missing}\n"
            "see `meshadm status`; the change reaches a sidecar as soon as it is connected again"
        )
        self.pending = tuple(pending)


class SidecarsNotCurrent(MeshError):
    """`meshadm status` found sidecars without contact or without a valid identity."""


class Expiring(MeshError):
    """`meshadm check` found what ends too soon, or what is not renewed as it should be."""


class Alarmed(MeshError):
    """A replica raises an alarm about the whole mesh. One line each."""


class NotFederated(Unavailable):
    """Another trust domain's bundle could not be had, or was refused."""


class NotFetched(Unavailable):
    """Keys of a token issuer could not be had, or were refused."""


class RotationWaits(MeshError):
    """The time is up and the rotation is not at its end; replicas go on with it."""


def exit_code(error: BaseException) -> ExitCode:
    match error:
        case RefusedBySidecar():
            return ExitCode.REFUSED_BY_SIDECAR
        case OpenGoesOn():
            return ExitCode.NOT_ENDED
        case Expiring():
            return ExitCode.EXPIRING
        case Alarmed():
            return ExitCode.ALARM
        case WaitTimedOut() | SidecarsNotCurrent() | RotationWaits():
            return ExitCode.TIMED_OUT
    return exit_code_of(error)
