"""Which services somebody may be: one, or any of a namespace."""

from dataclasses import dataclass
from typing import Self

from schemas.errors import InvalidInput, Problem
from schemas.names import ServiceRef, check_name

ANY = "*"


@dataclass(frozen=True, slots=True, order=True)
class ServiceSelector:
    """``shop/orders`` or ``shop/*``: a namespace is always named, and nothing but a whole name is a wildcard."""

    namespace: str
    name: str | None
    """None: any service of the namespace."""

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name or ANY}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises InvalidInput."""
        namespace, slash, name = text.partition("/")
        if not slash:
            remedy = f"write <namespace>/<service>, or <namespace>/{ANY} for any of the namespace"
            raise InvalidInput(Problem(f"selector {text[:80]!r}", "not understood", remedy=remedy))
        return cls.of(namespace, name)

    @classmethod
    def of(cls, namespace: str, name: str) -> Self:
        """`name` may be ``*``. Raises InvalidInput."""
        return cls(check_name(namespace, "namespace"), None if name == ANY else check_name(name, "service name"))

    def selects(self, service: ServiceRef) -> bool:
        return service.namespace == self.namespace and self.name in (None, service.name)

    @property
    def only(self) -> ServiceRef | None:
        """The one service that is selected; None where there may be several."""
        return None if self.name is None else ServiceRef(self.namespace, self.name)
