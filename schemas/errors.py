"""The error tree of the mesh. Every error says whose fault it is; the edge turns it into a status or an exit code."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing that is wrong with one object: a value, so that it can be collected, compared, reported.

    subject: what is wrong, e.g. ``Service shop/orders``, ``/mesh/v1/data/…`` or ``shop.yaml, document 2``.
    path: the field in JSONPath form (``$.spec.ports[0].port``), empty where the whole is meant.
    message: what is wrong and what was expected. remedy: what to do about it.
    """

    subject: str
    message: str
    path: str = ""
    remedy: str = ""

    def __str__(self) -> str:
        where = f"{self.subject}: {self.path}: " if self.path else f"{self.subject}: "
        return f"{where}{self.message}" + (f" ({self.remedy})" if self.remedy else "")


class MeshError(Exception):
    """Root of all errors that we raise on purpose. ``str()`` of it may be shown to whoever asked."""


class InvalidInput(MeshError):
    """The caller's fault: what was sent can't be accepted. Nothing was written."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


class NotFound(MeshError):
    """The caller named an object that does not exist."""


class Conflict(MeshError):
    """Somebody else changed an object meanwhile. Nothing was written: read again, then decide."""


class PermissionDenied(MeshError):
    """The caller is known, and may not do this."""


class Unauthenticated(MeshError):
    """The caller could not prove who it is."""


class LimitExceeded(InvalidInput):
    """The change is larger than one etcd transaction can be. Nothing was written."""


class Corrupt(MeshError):
    """A stored value can't be understood; nobody's input is at fault, the store's content is."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


class Unavailable(MeshError):
    """Something that is needed does not answer. ``outcome_unknown``: a write may have happened all the same."""

    def __init__(self, message: str, *, outcome_unknown: bool = False) -> None:
        super().__init__(message + ("; whether the write happened is unknown" if outcome_unknown else ""))
        self.outcome_unknown = outcome_unknown


class Overloaded(Unavailable):
    """It answers, and has too much to do: nothing was done. ``retry_after``: when to come again, in seconds."""

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after
