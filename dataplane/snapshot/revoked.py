"""Which workload identities are revoked, as far as this sidecar has ever heard. Pure.

What was once seen is never forgotten: neither a missing key nor an older value, which is what etcd shows after a
restore from a backup, makes an identity valid again. Only a record with a higher serial does.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from schemas.names import ServiceRef
from schemas.records import Revocation
from schemas.revocations import newer


@dataclass(slots=True)
class Revoked:
    records: dict[ServiceRef, Revocation] = field(default_factory=dict)
    """The one with the highest serial of each identity."""
    unreadable: set[ServiceRef] = field(default_factory=set)
    """Of whom there is a record that nobody could read, and no other: it may say revoked."""

    def __contains__(self, service: ServiceRef) -> bool:
        record = self.records.get(service)
        return record.revoked if record is not None else service in self.unreadable

    def services(self) -> list[ServiceRef]:
        """All that are revoked, in order."""
        return sorted(service for service in self.records.keys() | self.unreadable if service in self)

    def see(self, record: Revocation) -> Revocation:
        """Takes a record in; the one that is in force then."""
        service = ServiceRef(record.namespace, record.service)
        self.unreadable.discard(service)
        if newer(record, self.records.get(service)):
            self.records[service] = record
        return self.records[service]

    def see_all(self, records: Iterable[Revocation]) -> None:
        for record in records:
            self.see(record)
