"""[edge] What people ask of sidecars by etcd: read there, answered through a replica.

    data/questions/ ─▶ Questions ─▶ (access log) ─▶ a replica

A question lives for seconds. One that was missed is gone, and whoever asked is told who has not answered.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Protocol

import msgspec
import trio

from authz.rules import applies
from dataplane.compile.buckets import A_SECOND, bucket, file_name
from dataplane.config import SidecarSettings
from dataplane.envoy.admin import Admin
from dataplane.envoy.audits import audits
from dataplane.envoy.log_search import Found, find
from dataplane.envoy.process import LOG_FLUSH_MS
from dataplane.flows import MAX_TOLD, Flows
from dataplane.lastgood import write_file
from dataplane.pipeline import Pipeline
from schemas import codec
from schemas.errors import Corrupt, MeshError, NotFound, Unavailable
from schemas.keys import Keyspace
from schemas.names import ServiceRef
from schemas.questions import Answer, Question
from trio_etcd import Client, Compacted, EtcdError, FutureRevision, StoreReplaced

log = logging.getLogger("mesh.questions")

# Seconds. What has just happened is in Envoy's buffer still: who finds nothing looks once more.
LOOK_AGAIN_S = LOG_FLUSH_MS / 1000 + 0.2
# Seconds over which all sidecars of a mesh that found nothing spread their answers.
SPREAD_S = 0.3
# Seconds between attempts to follow an etcd that does not answer, or refuses.
RETRY_S = 1.0
# Questions that are looked into at a time; others wait for their turn.
AT_ONCE = 2
# Of what names and counts the flows of an answer.
_LIST_BYTES = 32
# Questions that may wait: they live for half a minute.
MAX_WAITING = 32


async def audit_counts(admin: Admin, pipeline: Pipeline) -> dict[str, int]:
    """What rules of AUDIT policies would have denied since Envoy has started. Raises Unavailable."""
    return in_force(audits(await admin.audits()), pipeline)


def in_force(counts: Mapping[str, int], pipeline: Pipeline) -> dict[str, int]:
    """Of the rules that there are now, also those that have counted nothing; Envoy remembers others as well."""
    own = pipeline.compiler.workload.service
    rules = [
        f"{policy.metadata.namespace}/{policy.metadata.name}[{index}]"
        for policy in pipeline.state.authorization_policies(own.namespace)
        if policy.spec.action == "AUDIT" and applies(policy, own)
        for index in range(len(policy.spec.rules))
    ]
    return {rule: counts.get(rule, 0) for rule in sorted(rules)}


def with_flows(said: Answer, flows: Flows, audits: Mapping[str, int], max_bytes: int) -> Answer:
    """With the counts, and as many flows as then fit."""
    whole = msgspec.structs.replace(said, since=flows.since, audits=dict(audits))
    if audits and _room(whole, max_bytes) < 0:
        problem = f"AUDIT policies: their counts do not fit, of {len(audits)} rules: ask fewer services at a time"
        whole = msgspec.structs.replace(whole, audits={}, problem=problem)
    told, omitted = flows.told(min(MAX_TOLD, _room(whole, max_bytes)))
    return msgspec.structs.replace(whole, flows=told, omitted=omitted)


def _room(answer: Answer, max_bytes: int) -> int:
    """Bytes for flows."""
    return max_bytes - len(codec.encode(answer)) - _LIST_BYTES


def write_buckets(directory: Path) -> None:
    """The files by which Envoy samples requests: it refuses a listener whose bucket it can't read. Raises OSError."""
    for one in A_SECOND:
        write_file(directory / file_name(one), bucket(one))


class Replicas(Protocol):
    """As of `dataplane.identity.client.ReplicaClient`."""

    async def answer(self, instance: str, question: str, answer: Answer) -> None: ...


class Questions:
    """audits: what rules of AUDIT policies would have denied, by rule. fraction: random numbers in [0, 1)."""

    def __init__(
        self,
        etcd: Client,
        keyspace: Keyspace,
        client: Replicas,
        settings: SidecarSettings,
        service: ServiceRef,
        flows: Flows,
        audits: Callable[[], Awaitable[dict[str, int]]],
        *,
        fraction: Callable[[], float],
    ) -> None:
        self._etcd = etcd
        self._prefix = keyspace.questions()
        self._client = client
        self._service = service
        self._instance = settings.instance
        self._log_file = Path(settings.access_log_path) if settings.access_log_path else None
        self._flows = flows
        self._audits = audits
        self._fraction = fraction
        self._limit = trio.CapacityLimiter(AT_ONCE)
        self._waiting = 0
        self._known: set[bytes] = set()
        """Keys of questions that are being answered, or were, and are still in etcd."""

    async def run(self) -> None:
        """For ever."""
        async with trio.open_nursery() as nursery:
            while True:
                try:
                    await self._follow(nursery)
                except (Compacted, StoreReplaced, FutureRevision):
                    await trio.sleep(RETRY_S * self._fraction())
                except EtcdError as error:
                    log.debug("questions can't be followed: %s", error)  # who watches configuration says it aloud
                    await trio.sleep(RETRY_S)

    async def _follow(self, nursery: trio.Nursery) -> None:
        listing = await self._etcd.list(self._prefix)
        self._known &= {kv.key for kv in listing.kvs}
        for kv in listing.kvs:
            self._take(nursery, kv.key, kv.value)
        start = listing.revision + 1
        async with self._etcd.watch(self._prefix, prefix=True, start_revision=start, progress=True) as watch:
            async for batch in watch:
                for event in batch.events:
                    if event.deleted:
                        self._known.discard(event.kv.key)
                    else:
                        self._take(nursery, event.kv.key, event.kv.value)

    def _take(self, nursery: trio.Nursery, key: bytes, value: bytes) -> None:
        if key in self._known:
            return
        self._known.add(key)
        try:
            question = codec.decode(value, Question, "question")
        except Corrupt as error:
            log.warning("not answered: %s", error)
            return
        if question.services and str(self._service) not in question.services:
            return
        if self._waiting >= MAX_WAITING:
            log.warning("question %s is not answered: %d others wait", question.id, self._waiting)
            return
        self._waiting += 1
        nursery.start_soon(self._answer, question)

    async def _answer(self, question: Question) -> None:
        try:
            async with self._limit:
                answer = await self._found(question)
            await self._client.answer(self._instance, question.id, answer)
        except NotFound:
            log.debug("nobody waits for an answer to question %s any more", question.id)
        except MeshError as error:
            log.warning("the answer to question %s did not arrive: %s", question.id, error)
        finally:
            self._waiting -= 1

    async def _found(self, question: Question) -> Answer:
        if question.about == "flows":
            return await self._seen_lately(question.max_bytes)
        if question.about != "request":
            return self._saying(problem=f"this version knows nothing about {question.about!r}: upgrade the sidecar")
        if self._log_file is None:
            return self._saying(problem="it keeps no access log: accessLog is empty in its settings")
        try:
            found = await self._search(self._log_file, question.request_id)
            if not found.lines:
                await trio.sleep(LOOK_AGAIN_S + SPREAD_S * self._fraction())
                found = await self._search(self._log_file, question.request_id)
        except (NotFound, OSError) as error:
            return self._saying(problem=str(error))
        looked = ", ".join(f"{path} ({size} bytes)" for path, size in found.files)
        return self._saying(looked_at=looked, entries=found.lines)

    async def _seen_lately(self, max_bytes: int) -> Answer:
        said = self._saying(looked_at="samples of its requests")
        try:
            audits = await self._audits()
        except Unavailable as error:
            said, audits = msgspec.structs.replace(said, problem=f"AUDIT policies: {error}"), {}
        return with_flows(said, self._flows, audits, max_bytes)

    async def _search(self, log_file: Path, request_id: str) -> Found:
        return await trio.to_thread.run_sync(find, log_file, request_id)

    def _saying(self, *, looked_at: str = "", entries: tuple[str, ...] = (), problem: str = "") -> Answer:
        return Answer(
            service=self._service.name,
            namespace=self._service.namespace,
            instance=self._instance,
            looked_at=looked_at,
            entries=entries,
            problem=problem,
        )
