"""What goes into and comes out of the client: frozen values, no protobuf."""

import enum
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KeyValue:
    """A key as etcd stores it. For a deletion only `key` and `mod_revision` (the deletion's revision) are set."""

    key: bytes
    value: bytes
    mod_revision: int
    create_revision: int = 0
    version: int = 0
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Event:
    """One key's change. `previous` is set when the watch asked for it and the key existed before."""

    kv: KeyValue
    deleted: bool = False
    previous: KeyValue | None = None


@dataclass(frozen=True, slots=True)
class WatchBatch:
    """All events of one watch at one revision: never part of a revision, never two."""

    revision: int
    events: tuple[Event, ...] = ()


@dataclass(frozen=True, slots=True)
class Progress(WatchBatch):
    """A batch without events: everything up to `revision` has been delivered. Only for watches that opted in."""


@dataclass(frozen=True, slots=True)
class RangeResult:
    """`kvs` in key order; `more` when `limit` cut it short; `count` of all keys in the range; store `revision`."""

    revision: int
    kvs: tuple[KeyValue, ...]
    more: bool = False
    count: int = 0


@dataclass(frozen=True, slots=True)
class Listing:
    """A whole prefix at exactly one revision, in key order: watch from `revision + 1`."""

    revision: int
    kvs: tuple[KeyValue, ...]


@dataclass(frozen=True, slots=True)
class PutResult:
    """The write's revision, and the old value when asked for."""

    revision: int
    previous: KeyValue | None = None


@dataclass(frozen=True, slots=True)
class DeleteResult:
    """How many keys went; with 0 nothing was written and `revision` is the store's current one."""

    revision: int
    deleted: int
    previous: tuple[KeyValue, ...] = ()


class Target(enum.Enum):
    """Which property of a key a comparison looks at; an absent key has 0 in all but VALUE, which never compares."""

    VERSION = "version"
    CREATE = "create_revision"
    MOD = "mod_revision"
    VALUE = "value"
    LEASE = "lease"


class Relation(enum.Enum):
    """How property and operand must relate."""

    EQUAL = "EQUAL"
    GREATER = "GREATER"
    LESS = "LESS"
    NOT_EQUAL = "NOT_EQUAL"


@dataclass(frozen=True, slots=True)
class Compare:
    """A guard of a transaction: `key`'s `target` `relation` `operand`. With `range_end`, for every key in the range."""

    key: bytes
    target: Target
    operand: int | bytes
    relation: Relation = Relation.EQUAL
    range_end: bytes = b""

    @classmethod
    def absent(cls, key: bytes) -> "Compare":
        """The key does not exist."""
        return cls(key, Target.CREATE, 0)

    @classmethod
    def present(cls, key: bytes) -> "Compare":
        """The key exists."""
        return cls(key, Target.CREATE, 0, Relation.GREATER)

    @classmethod
    def unchanged(cls, key: bytes, mod_revision: int) -> "Compare":
        """The key was last written at `mod_revision`; 0: it does not exist."""
        return cls(key, Target.MOD, mod_revision)

    @classmethod
    def value_is(cls, key: bytes, value: bytes) -> "Compare":
        """The key exists with exactly this value."""
        return cls(key, Target.VALUE, value)


@dataclass(frozen=True, slots=True)
class Put:
    """Operation of a transaction: write a key, attached to `lease` (0: none). Answered by PutResult."""

    key: bytes
    value: bytes
    lease: int = 0
    want_previous: bool = False


@dataclass(frozen=True, slots=True)
class Get:
    """Operation of a transaction: read a key or `[key, range_end)`. Answered by RangeResult."""

    key: bytes
    range_end: bytes = b""
    limit: int = 0
    keys_only: bool = False
    count_only: bool = False

    @classmethod
    def prefix(cls, prefix: bytes, *, keys_only: bool = False) -> "Get":
        """Everything under `prefix`."""
        key, end = prefix_range(prefix)
        return cls(key, end, keys_only=keys_only)


@dataclass(frozen=True, slots=True)
class Delete:
    """Operation of a transaction: delete a key or `[key, range_end)`. Answered by DeleteResult."""

    key: bytes
    range_end: bytes = b""
    want_previous: bool = False

    @classmethod
    def prefix(cls, prefix: bytes) -> "Delete":
        """Everything under `prefix`."""
        return cls(*prefix_range(prefix))


Op = Put | Get | Delete
OpResult = PutResult | RangeResult | DeleteResult


@dataclass(frozen=True, slots=True)
class TxnResult:
    """`succeeded`: all comparisons held. `results` of the branch that ran, in its order. One revision for all."""

    succeeded: bool
    revision: int
    results: tuple[OpResult, ...] = ()


@dataclass(frozen=True, slots=True)
class LeaseGrant:
    """A new lease; `ttl` in seconds is what etcd granted, at least what its election timeout demands."""

    id: int
    ttl: int


@dataclass(frozen=True, slots=True)
class LeaseStatus:
    """Seconds left (-1: gone), seconds granted, and the attached keys when asked for."""

    id: int
    ttl: int
    granted_ttl: int
    keys: tuple[bytes, ...] = ()


class Alarm(enum.Enum):
    """etcd's cluster-wide alarms."""

    NOSPACE = "NOSPACE"
    CORRUPT = "CORRUPT"


@dataclass(frozen=True, slots=True)
class AlarmState:
    """One member that has raised an alarm."""

    member_id: int
    alarm: Alarm


@dataclass(frozen=True, slots=True)
class Member:
    """A member of the cluster; `name` is empty until it has started once."""

    id: int
    name: str
    peer_urls: tuple[str, ...]
    client_urls: tuple[str, ...]
    is_learner: bool = False


@dataclass(frozen=True, slots=True)
class Status:
    """What one member says of itself. `leader` 0: it knows none. Sizes in bytes."""

    version: str
    cluster_id: int
    member_id: int
    leader: int
    revision: int
    raft_term: int
    db_size: int
    db_size_in_use: int
    is_learner: bool = False
    errors: tuple[str, ...] = ()


def prefix_range(prefix: bytes) -> tuple[bytes, bytes]:
    """`(key, range_end)` for everything that starts with `prefix`; of an empty prefix: all keys."""
    if not prefix:
        return b"\0", b"\0"
    stem = prefix.rstrip(b"\xff")
    if not stem:
        return prefix, b"\0"  # nothing sorts after 0xff…: etcd's "to the end"
    return prefix, stem[:-1] + bytes([stem[-1] + 1])


def parse_version(text: str) -> tuple[int, int, int]:
    """`3.5.30` → (3, 5, 30); a suffix such as `-rc.1` is dropped. Raises ValueError for anything else."""
    parts = text.split("-")[0].split("+")[0].split(".")
    if len(parts) != 3:
        raise ValueError(f"not an etcd version: {text!r}; expected major.minor.patch")
    return int(parts[0]), int(parts[1]), int(parts[2])
