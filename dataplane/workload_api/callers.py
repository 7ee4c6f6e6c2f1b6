"""Who may have the app's identity: what the settings select, against what the kernel says of a caller. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Executable:
    """The file that a process runs; `sha256` in lower-case hex, None where it was not asked for."""

    path: str | None
    """None: the process sees another file under that name than we do."""
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """A caller, attested. `executable` None: hidden from us."""

    pid: int
    uid: int
    gids: frozenset[int]
    """Its group and its supplementary groups."""
    unit: str | None = None
    executable: Executable | None = None

    def __str__(self) -> str:
        unit = f", unit {self.unit}" if self.unit else ""
        return f"pid {self.pid} (uid {self.uid}{unit})"


@dataclass(frozen=True, slots=True)
class Selector:
    """All that is given must be so; at least one is."""

    uid: int | None = None
    gid: int | None = None
    unit: str | None = None
    executable: str | None = None
    sha256: str | None = None

    @property
    def says_nothing(self) -> bool:
        return self == Selector()

    def matches(self, facts: Facts) -> bool:
        executable = facts.executable or Executable(None)
        return not self.says_nothing and all(
            (
                self.uid is None or self.uid == facts.uid,
                self.gid is None or self.gid in facts.gids,
                self.unit is None or self.unit == facts.unit,
                self.executable is None or self.executable == executable.path,
                self.sha256 is None or self.sha256 == executable.sha256,
            )
        )


def admitted(selectors: Sequence[Selector], facts: Facts) -> bool:
    """Whether any of them selects the caller; none at all selects nobody."""
    return any(selector.matches(facts) for selector in selectors)


def hash_decides(selectors: Sequence[Selector], facts: Facts) -> bool:
    """Whether the caller could be admitted by the hash of its executable: whoever could not costs no hashing."""
    return any(
        selector.sha256 is not None and (replace(selector, sha256=None) == Selector() or _but_for_hash(selector, facts))
        for selector in selectors
    )


def _but_for_hash(selector: Selector, facts: Facts) -> bool:
    return replace(selector, sha256=None).matches(facts)
