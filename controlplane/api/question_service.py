"""[edge] mesh.v1.Questions: what only sidecars know, asked of them by etcd and answered to any replica.

    Ask ─▶ data/questions/<id> ─▶ sidecars ─▶ Answer, at any replica ─▶ control/answers/<id>/<sidecar> ─▶ Ask

All of it lies under one lease, and goes with it: at the end of Ask, or when that replica has died.
"""

from collections.abc import Callable, Iterable

import trio

from controlplane.api import convert
from controlplane.api.call import Call
from controlplane.api.dispatch import Rpc
from controlplane.domain.registration import Instance, service_of
from controlplane.revocations import Revocations
from controlplane.store.boards import StatusBoard
from controlplane.store.etcd import LeaseGone, MustListAgain, Store
from controlplane.store.ops import LeaseGuard, Put
from schemas import codec
from schemas.api import mesh_pb2 as pb
from schemas.errors import InvalidInput, LimitExceeded, MeshError, NotFound, Problem, Unavailable
from schemas.keys import StatusRef
from schemas.names import ServiceRef
from schemas.questions import MAX_ANSWER_BYTES, MAX_SERVICES, Answer, Question, question_faults

# A sidecar looks again after a second, for what Envoy had not written yet; the rest is for a busy host.
GATHER_SECONDS = 5.0
# Of what is kept of the caller's time, for taking the question away.
AFTER_SECONDS = 0.5
# Outlives every Ask; what a replica leaves that died is gone after it.
LEASE_SECONDS = 30
# Questions of one replica at a time: each is work for all the sidecars that it is put to.
AT_ONCE = 4


class QuestionService:
    """random: bytes that nobody can foretell."""

    def __init__(
        self, store: Store, board: StatusBoard, revocations: Revocations, random: Callable[[int], bytes]
    ) -> None:
        self._store = store
        self._board = board
        self._revocations = revocations
        self._random = random
        self._limit = trio.CapacityLimiter(AT_ONCE)

    def rpcs(self) -> dict[str, Rpc]:
        return {
            "/mesh.v1.Questions/Ask": Rpc(pb.AskRequest, unary=self.ask),
            "/mesh.v1.Questions/Answer": Rpc(pb.AnswerRequest, unary=self.answer),
        }

    async def ask(self, message: pb.AskRequest, call: Call) -> pb.AskReply:
        """Of sidecars with a live status; not of those whose identity is revoked, which nobody hears."""
        services = _services(message.services)
        question = _question(self._random(16).hex(), message, services)
        call.tell(about=question.about, request_id=question.request_id or None)
        deadline = trio.current_time() + call.seconds - AFTER_SECONDS
        with trio.move_on_at(deadline) as waiting:
            await self._board.synced.wait()
            await self._limit.acquire_on_behalf_of(question)
        if waiting.cancelled_caught:
            raise Unavailable(f"this replica already gathers the answers to {AT_ONCE} questions: ask again")
        try:
            asked = {ref for ref in self._board.refs() if self._is_asked(ref, services)}
            answers = await self._answers(question, asked, deadline) if asked else {}
        finally:
            self._limit.release_on_behalf_of(question)
        silent = sorted(map(_name, asked - answers.keys()))
        return pb.AskReply(answers=[answers[ref] for ref in sorted(answers, key=_name)], silent=silent)

    def _is_asked(self, ref: StatusRef, services: frozenset[ServiceRef]) -> bool:
        service = service_of(ref)
        return (not services or service in services) and not self._revocations.refuses(service)

    async def _answers(self, question: Question, asked: set[StatusRef], deadline: float) -> dict[StatusRef, bytes]:
        lease = await self._store.grant_lease(LEASE_SECONDS)
        answers: dict[StatusRef, bytes] = {}
        try:
            key = self._store.keyspace.question(question.id)
            revision = await self._store.transact((), (Put(key, codec.encode(question), lease),))
            with trio.move_on_at(min(deadline, trio.current_time() + GATHER_SECONDS)):
                await self._gather(question, (revision or 0) + 1, asked, answers)
        finally:
            with trio.move_on_after(AFTER_SECONDS, shield=True):
                await self._take_away(lease)
        return answers

    async def _gather(
        self, question: Question, revision: int, asked: set[StatusRef], into: dict[StatusRef, bytes]
    ) -> None:
        prefix = self._store.keyspace.answers(question.id)
        try:
            async with self._store.watch(prefix, revision) as watch:
                async for batch in watch:
                    for one in batch.events:
                        namespace, _, sidecar = one.kv.key.removeprefix(prefix).decode().partition("/")
                        if not one.deleted:
                            into[StatusRef(namespace, sidecar)] = one.kv.value
                    if asked <= into.keys():
                        return
        except MustListAgain as error:
            raise Unavailable(f"the answers were lost: {error}; ask again") from error

    async def _take_away(self, lease: int) -> None:
        try:
            await self._store.revoke_lease(lease)
        except MeshError:
            return  # its end does it

    async def answer(self, message: pb.AnswerRequest, call: Call) -> pb.AnswerReply:
        """Kept for as long as somebody waits for it. Raises NotFound where nobody does any more."""
        instance = Instance.of(call.caller.service, message.instance)
        call.tell(instance=instance)
        if len(message.answer) > MAX_ANSWER_BYTES:
            text = f"{len(message.answer)} bytes, and one answer may have {MAX_ANSWER_BYTES}"
            raise LimitExceeded(Problem("answer", text, remedy="answer less"))
        said = convert.record_from(message.answer, Answer, "answer")
        if Instance(ServiceRef(said.namespace, said.service), said.instance) != instance:
            raise InvalidInput(Problem("answer", f"speaks of {said.instance}, and comes from {instance}"))
        if not _is_id(message.question):
            raise InvalidInput(Problem("answer", "names no question", "question", "give the id of one in etcd"))
        key = self._store.keyspace.question(message.question)
        held = await self._store.get(key)
        written: int | None = None
        if held is not None:
            put = Put(self._store.keyspace.answer(message.question, instance.status_ref), message.answer, held.lease)
            try:
                written = await self._store.transact((LeaseGuard(key, held.lease),), (put,))
            except LeaseGone:
                written = None
        if written is None:
            raise NotFound(f"nobody waits for an answer to the question {message.question} (any more)")
        return pb.AnswerReply()


def _services(names: Iterable[str]) -> frozenset[ServiceRef]:
    found = frozenset(map(ServiceRef.parse, names))
    if len(found) > MAX_SERVICES:
        text = f"{len(found)} services, and a question may name {MAX_SERVICES}"
        raise LimitExceeded(Problem("request", text, "services", "name none, which means all"))
    return found


def _question(question_id: str, message: pb.AskRequest, services: frozenset[ServiceRef]) -> Question:
    """Raises InvalidInput."""
    made = Question(
        id=question_id,
        about=message.about,
        services=tuple(sorted(map(str, services))),
        request_id=message.request_id,
    )
    faults = [*question_faults(made)]
    if faults:
        raise InvalidInput(*faults)
    return made


def _is_id(text: str) -> bool:
    return len(text) == 32 and not set(text) - set("0123456789abcdef")


def _name(ref: StatusRef) -> str:
    return f"{ref.namespace}/{ref.sidecar}"
