"""Operations and guards of one etcd transaction, as values. Pure."""

from dataclasses import dataclass

from schemas import codec
from schemas.errors import MeshError
from schemas.records import Record

# etcd's --max-txn-ops: it counts operations and comparisons each, and takes the larger number.
MAX_TXN_OPS = 128
# etcd's --max-request-bytes, 1.5 MiB.
MAX_REQUEST_BYTES = 1_572_864
# What protobuf and etcd's own header add to one operation or comparison beside key and value; measured 6 to 24 bytes.
OVERHEAD_BYTES_PER_OP = 32


@dataclass(frozen=True, slots=True)
class Put:
    key: bytes
    value: bytes
    lease: int = 0
    """0: none. The key is deleted when the lease ends."""

    def __repr__(self) -> str:  # values hold token hashes and sealed keys: nothing for a log
        return f"Put({self.key!r}, {len(self.value)} bytes, lease={self.lease})"


def put_over(key: bytes, record: Record, before: bytes | None) -> Put:
    """before: the value that is replaced: what it has beyond what we know is kept, where it can be read."""
    try:
        return Put(key, codec.encode_over(before, record) if before is not None else codec.encode(record))
    except MeshError:
        return Put(key, codec.encode(record))


@dataclass(frozen=True, slots=True)
class Delete:
    key: bytes


Op = Put | Delete


@dataclass(frozen=True, slots=True)
class KeyGuard:
    """The key is still at that mod revision; 0: it does not exist."""

    key: bytes
    mod_revision: int


@dataclass(frozen=True, slots=True)
class LeaseGuard:
    """The key exists under that lease."""

    key: bytes
    lease: int


@dataclass(frozen=True, slots=True)
class PrefixGuard:
    """No key below the prefix was written after that revision. Deletions are not seen."""

    prefix: bytes
    revision: int


Guard = KeyGuard | LeaseGuard | PrefixGuard


def request_bytes(guards: tuple[Guard, ...], ops: tuple[Op, ...]) -> int:
    """An upper bound of the size of the transaction's request in bytes."""
    size = OVERHEAD_BYTES_PER_OP * (len(guards) + len(ops))
    for guard in guards:
        size += 2 * len(guard.prefix) if isinstance(guard, PrefixGuard) else len(guard.key)
    for op in ops:
        size += len(op.key) + (len(op.value) if isinstance(op, Put) else 0)
    return size
