"""[edge] What sidecars report, written in batches: sidecars times revisions must not become etcd's load."""

from dataclasses import dataclass, field

import trio

from controlplane.store.etcd import LeaseGone, Store
from controlplane.store.ops import LeaseGuard, Put
from schemas.errors import MeshError, NotFound

COLLECT_SECONDS = 0.05  # between two writes; the first after a pause goes at once
MAX_BATCH = 100  # below etcd's 128 operations a transaction


@dataclass(slots=True)
class _Report:
    key: bytes
    value: bytes
    lease: int
    done: trio.Event = field(default_factory=trio.Event)
    error: MeshError | None = None


class StatusWriter:
    """`run` writes; `write` hands over and waits. Later reports of one sidecar replace earlier ones not yet written."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: dict[bytes, list[_Report]] = {}
        self._something = trio.Event()

    async def write(self, key: bytes, value: bytes, lease: int) -> None:
        """Until it is in etcd. Raises NotFound where the key is not (any more) under that lease; Unavailable."""
        report = _Report(key, value, lease)
        self._waiting.setdefault(key, []).append(report)
        self._something.set()
        await report.done.wait()
        if report.error is not None:
            raise report.error

    async def run(self) -> None:
        """For ever."""
        while True:
            await self._something.wait()
            batch = [self._waiting.pop(key) for key in list(self._waiting)[:MAX_BATCH]]
            if not self._waiting:
                self._something = trio.Event()
            await self._write_batch(batch)
            if len(self._waiting) < MAX_BATCH:
                await trio.sleep(COLLECT_SECONDS)

    async def _write_batch(self, batch: list[list[_Report]]) -> None:
        newest = [reports[-1] for reports in batch]
        error: MeshError | None = None
        try:
            written = await self._put(newest)
        except LeaseGone:
            written = False
        except MeshError as failure:
            written, error = False, failure
        if not written and error is None and len(newest) > 1:  # somebody's lease has ended: not the others' fault
            for reports in batch:
                await self._write_batch([reports])
            return
        if not written and error is None:
            error = NotFound("this instance is not registered under that lease (any more): register again")
        for reports in batch:
            for report in reports:
                report.error = error
                report.done.set()

    async def _put(self, reports: list[_Report]) -> bool:
        guards = [LeaseGuard(report.key, report.lease) for report in reports]
        ops = [Put(report.key, report.value, report.lease) for report in reports]
        return await self._store.transact(guards, ops) is not None
