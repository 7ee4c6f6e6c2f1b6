"""One put or delete, as asked for. Pure."""

from dataclasses import dataclass

from schemas.names import ObjectRef
from schemas.objects import AnyObject


@dataclass(frozen=True, slots=True)
class Change:
    """`put` None: delete `ref`.

    source: where it stood, e.g. ``shop.yaml:12``, for messages. expected_revision: only if the object is at this mod
    revision; 0: don't care.
    """

    ref: ObjectRef
    put: AnyObject | None
    source: str = ""
    expected_revision: int = 0

    @property
    def subject(self) -> str:
        """What a Problem of this change is about."""
        return f"{self.source}: {self.ref}" if self.source else str(self.ref)
