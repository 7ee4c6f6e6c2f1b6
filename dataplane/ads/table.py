"""The desired state: every resource that the compiler wants Envoy to have, and since when."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from dataplane.ads.references import children_of
from dataplane.compile.resources import Resource, ResourceKey, Update


class Since(NamedTuple):
    """When something became owed to a client: the place of the update that asks for it in the order of updates."""

    sequence: int
    acked_until: int
    """The revision that may be called acked as long as only this is outstanding: the one before that update."""


@dataclass(frozen=True, slots=True)
class Change:
    """What an update really changed, for the sessions to act upon."""

    since: Since
    keys: tuple[ResourceKey, ...]


@dataclass(slots=True)
class _Row:
    resource: Resource
    revision: int
    children: frozenset[ResourceKey] | None = None


@dataclass(slots=True)
class ResourceTable:
    """Shared by all sessions of a server, written only by `apply`."""

    revision: int = 0
    """The etcd revision of the newest update; 0 before the first."""
    sequence: int = 0
    """Counts updates. Unlike revisions it never goes back, not even when etcd was restored."""
    began_anew: int = 0
    """The `sequence` of the last update whose revision was below the one before it: those before it say nothing now."""
    _rows: dict[str, dict[str, _Row]] = field(default_factory=dict)

    def apply(self, update: Update) -> Change:
        """Take a step; what was there in the same version already is not part of the change.

        A key that is both changed and removed in one update stays. Raises nothing.
        """
        since = Since(self.sequence + 1, self.revision)
        keys: dict[ResourceKey, None] = {}
        kept = {resource.key for resource in update.changed}
        for resource in update.changed:
            rows = self._rows.setdefault(resource.key.type_url, {})
            before = rows.get(resource.key.name)
            if before is None or before.resource.version != resource.version:
                rows[resource.key.name] = _Row(resource, update.revision)
                keys[resource.key] = None
        for key in update.removed:
            if key not in kept and self._rows.get(key.type_url, {}).pop(key.name, None) is not None:
                keys[key] = None
        self.sequence += 1
        if update.revision < self.revision:
            self.began_anew = self.sequence
        self.revision = update.revision
        return Change(since, tuple(keys))

    def get(self, type_url: str, name: str) -> Resource | None:
        row = self._rows.get(type_url, {}).get(name)
        return row.resource if row else None

    def names(self, type_url: str) -> Collection[str]:
        return self._rows.get(type_url, {}).keys()

    def revision_of(self, key: ResourceKey) -> int:
        """The revision that brought the present version of a resource; the table's own for one that is gone."""
        row = self._rows.get(key.type_url, {}).get(key.name)
        return row.revision if row else self.revision

    def children(self, key: ResourceKey) -> frozenset[ResourceKey]:
        """What a client will subscribe to because it was given this resource; empty for one that is gone."""
        row = self._rows.get(key.type_url, {}).get(key.name)
        if row is None:
            return frozenset()
        if row.children is None:
            row.children = children_of(row.resource)
        return row.children

    def versions(self, type_url: str) -> Mapping[str, str]:
        """Name to version, for reports and tests."""
        return {name: row.resource.version for name, row in self._rows.get(type_url, {}).items()}
