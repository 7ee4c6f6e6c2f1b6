"""etcd's MVCC store in memory: what Range, Put, DeleteRange, Txn and Compact do, and the log that watches read."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from trio_etcd._proto import etcd_pb2 as pb
from trio_grpc import RpcError, StatusCode

MAX_TXN_OPS = 128  # etcd's --max-txn-ops
MAX_REQUEST_BYTES = 1536 * 1024  # etcd's --max-request-bytes


def in_range(key: bytes, start: bytes, end: bytes) -> bool:
    """etcd's rule: no end is the one key, a NUL end is "to the last key"."""
    if not end:
        return key == start
    return key >= start and (end == b"\0" or key < end)


def refuse(code: StatusCode, words: str) -> RpcError:
    """An error as etcd words it."""
    return RpcError(code, f"etcdserver: {words}")


class Store:
    """Raises RpcError as the server would answer. `on_commit` is told every revision's events as it happens."""

    def __init__(self, on_commit: Callable[[int, list[pb.Event]], None]) -> None:
        self.revision = 1
        self.compacted = 0
        self.leases: dict[int, set[bytes]] = {}
        self._on_commit = on_commit
        self._versions: dict[bytes, list[tuple[int, pb.KeyValue | None]]] = {}
        self._log: list[tuple[int, list[pb.Event]]] = []

    # --- reading ---

    def get(self, key: bytes, revision: int = 0) -> pb.KeyValue | None:
        """The key as it was at `revision` (0: now)."""
        for at, kv in reversed(self._versions.get(key, ())):
            if not revision or at <= revision:
                return kv
        return None

    def range(self, request: pb.RangeRequest) -> pb.RangeResponse:
        """One key or a range, now or in the past."""
        if not request.key:
            raise refuse(StatusCode.INVALID_ARGUMENT, "key is not provided")
        if request.revision > self.revision:
            raise refuse(StatusCode.OUT_OF_RANGE, "mvcc: required revision is a future revision")
        if 0 < request.revision < self.compacted:
            raise refuse(StatusCode.OUT_OF_RANGE, "mvcc: required revision has been compacted")
        keys = sorted(key for key in self._versions if in_range(key, request.key, request.range_end))
        found = [kv for key in keys if (kv := self.get(key, request.revision)) is not None]
        shown = [] if request.count_only else found[: request.limit or None]
        if request.keys_only:
            shown = [_without_value(kv) for kv in shown]
        more = not request.count_only and len(shown) < len(found)
        return pb.RangeResponse(kvs=shown, count=len(found), more=more)

    def events_since(self, revision: int, start: bytes, end: bytes) -> list[tuple[int, list[pb.Event]]]:
        """The watched part of each revision from `revision` on."""
        found = [
            (at, [event for event in events if in_range(event.kv.key, start, end)])
            for at, events in self._log
            if at >= revision
        ]
        return [(at, events) for at, events in found if events]

    # --- writing ---

    def put(self, request: pb.PutRequest) -> pb.PutResponse:
        """One key, one revision."""
        return self.txn(pb.TxnRequest(success=[pb.RequestOp(request_put=request)])).responses[0].response_put

    def delete(self, request: pb.DeleteRangeRequest) -> pb.DeleteRangeResponse:
        """A key or range, one revision; none when nothing matched."""
        done = self.txn(pb.TxnRequest(success=[pb.RequestOp(request_delete_range=request)]))
        return done.responses[0].response_delete_range

    def txn(self, request: pb.TxnRequest) -> pb.TxnResponse:
        """All or nothing at one revision."""
        if request.ByteSize() > MAX_REQUEST_BYTES:
            raise refuse(StatusCode.INVALID_ARGUMENT, "request is too large")
        for branch in (request.compare, request.success, request.failure):
            if len(branch) > MAX_TXN_OPS:
                raise refuse(StatusCode.INVALID_ARGUMENT, "too many operations in txn request")
        for branch in (request.success, request.failure):
            _refuse_duplicates(branch)
        succeeded = all(self._holds(compare) for compare in request.compare)
        operations = request.success if succeeded else request.failure
        for operation in operations:
            lease = operation.request_put.lease
            if operation.HasField("request_put") and lease and lease not in self.leases:
                raise refuse(StatusCode.NOT_FOUND, "requested lease not found")
        events: list[pb.Event] = []
        responses = [self._apply(operation, self.revision + 1, events) for operation in operations]
        self._commit(events)
        return pb.TxnResponse(succeeded=succeeded, responses=responses)

    def compact(self, revision: int) -> None:
        """Forget what was before `revision`."""
        if revision <= self.compacted:
            raise refuse(StatusCode.OUT_OF_RANGE, "mvcc: required revision has been compacted")
        if revision > self.revision:
            raise refuse(StatusCode.OUT_OF_RANGE, "mvcc: required revision is a future revision")
        self.compacted = revision
        self._log = [(at, events) for at, events in self._log if at >= revision]

    def drop_lease(self, lease: int) -> None:
        """Revoked or expired: its keys go at one revision."""
        events: list[pb.Event] = []
        for key in sorted(self.leases.pop(lease)):
            self._delete(key, self.revision + 1, events)
        self._commit(events)

    # --- how ---

    def _commit(self, events: list[pb.Event]) -> None:
        if events:
            self.revision += 1
            self._log.append((self.revision, events))
            self._on_commit(self.revision, events)

    def _apply(self, operation: pb.RequestOp, revision: int, events: list[pb.Event]) -> pb.ResponseOp:
        if operation.HasField("request_range"):
            return pb.ResponseOp(response_range=self.range(operation.request_range))
        if operation.HasField("request_put"):
            put = operation.request_put
            before = self._write(put, revision, events)
            return pb.ResponseOp(response_put=pb.PutResponse(prev_kv=before if put.prev_kv else None))
        delete = operation.request_delete_range
        keys = sorted(key for key in self._versions if in_range(key, delete.key, delete.range_end))
        gone = [kv for key in keys if (kv := self._delete(key, revision, events)) is not None]
        answer = pb.DeleteRangeResponse(deleted=len(gone), prev_kvs=gone if delete.prev_kv else [])
        return pb.ResponseOp(response_delete_range=answer)

    def _write(self, put: pb.PutRequest, revision: int, events: list[pb.Event]) -> pb.KeyValue | None:
        before = self.get(put.key)
        kv = pb.KeyValue(
            key=put.key,
            value=put.value,
            mod_revision=revision,
            create_revision=before.create_revision if before else revision,
            version=before.version + 1 if before else 1,
            lease=put.lease,
        )
        self._attach(put.key, before.lease if before else 0, put.lease)
        self._versions.setdefault(put.key, []).append((revision, kv))
        events.append(pb.Event(type=pb.Event.PUT, kv=kv, prev_kv=before))
        return before

    def _delete(self, key: bytes, revision: int, events: list[pb.Event]) -> pb.KeyValue | None:
        before = self.get(key)
        if before is not None:
            self._attach(key, before.lease, 0)
            self._versions[key].append((revision, None))
            gone = pb.KeyValue(key=key, mod_revision=revision)
            events.append(pb.Event(type=pb.Event.DELETE, kv=gone, prev_kv=before))
        return before

    def _attach(self, key: bytes, old: int, new: int) -> None:
        self.leases.get(old, set()).discard(key)
        if new:
            self.leases[new].add(key)

    def _holds(self, compare: pb.Compare) -> bool:
        keys = (
            [key for key in self._versions if in_range(key, compare.key, compare.range_end) and self.get(key)]
            if compare.range_end
            else [compare.key]
        )
        return all(_compare(compare, self.get(key)) for key in keys)


def _compare(compare: pb.Compare, kv: pb.KeyValue | None) -> bool:
    field = {0: "version", 1: "create_revision", 2: "mod_revision", 3: "value", 4: "lease"}[compare.target]
    if kv is None and field == "value":
        return False
    have = getattr(kv or pb.KeyValue(), field)
    want = getattr(compare, field)
    return bool((have == want, have > want, have < want, have != want)[compare.result])


def _refuse_duplicates(operations: Sequence[pb.RequestOp]) -> None:
    puts = [operation.request_put.key for operation in operations if operation.HasField("request_put")]
    deletes = [one.request_delete_range for one in operations if one.HasField("request_delete_range")]
    overlap = any(in_range(key, delete.key, delete.range_end) for key in puts for delete in deletes)
    if len(puts) != len(set(puts)) or overlap:
        raise refuse(StatusCode.INVALID_ARGUMENT, "duplicate key given in txn request")


def _without_value(kv: pb.KeyValue) -> pb.KeyValue:
    bare = pb.KeyValue()
    bare.CopyFrom(kv)
    bare.ClearField("value")
    return bare
