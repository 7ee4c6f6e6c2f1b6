"""[edge] mesh.v1.Questions: what only sidecars know, asked of them by etcd and answered to any replica.

    Ask ─▶ data/questions/<id> ─▶ sidecars ─▶ Answer, at any replica ─▶ control/answers/<id>/<sidecar> ─▶ Ask

All of it lies under one lease, and goes with it: at the end of Ask, or when that replica has died.
"""

from collections.abc import Callable, Iterable

import msgspec
import trio

from controlplane.api import convert
from controlplane.api.call import Call
from controlplane.api.dispatch import Rpc
from controlplane.domain.registration import Instance, service_of
from controlplane.revocations import Revocations
from controlplane.store.boards import StatusBoard
from controlplane.store.etcd import LeaseGone, MustListAgain, Store
from controlplane.store.ops import KeyGuard, LeaseGuard, Put
from schemas import codec
from schemas.api import mesh_pb2 as pb
from schemas.errors import Conflict, InvalidInput, LimitExceeded, MeshError, NotFound, Problem, Unavailable
from schemas.keys import StatusRef
from schemas.names import ServiceRef
from schemas.questions import MAX_ANSWER_BYTES, MAX_SERVICES, Answer, Question, question_faults

# A sidecar looks again after a second, for what Envoy had not written yet; the rest is for a busy host.
GATHER_SECONDS = 5.0
# Of what is kept of the caller's time, for taking the question away.
AFTER_SECONDS = 0.5
# Outlives every Ask; what a replica leaves that died is gone after it.
LEASE_SECONDS = 30
# Of all answers to one question: they are in memory, in one message, and for an hour in etcd's history.
GATHERED_BYTES = 8 * 1024 * 1024
# Of each, however many are asked: who it is, and why it can't answer.
LEAST_BYTES = 1024
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
        await self._wait_turn(question, deadline)
        try:
            asked = {ref for ref in self._board.refs() if self._is_asked(ref, services)}
            answers = await self._answers(_sized(question, len(asked)), asked, deadline) if asked else {}
        finally:
            self._limit.release_on_behalf_of(question)
        silent = sorted(map(_name, asked - answers.keys()))
        return pb.AskReply(answers=[answers[ref] for ref in sorted(answers, key=_name)], silent=silent)

    async def _wait_turn(self, question: Question, deadline: float) -> None:
        with trio.move_on_at(deadline) as waiting:
            await self._board.synced.wait()
            await self._limit.acquire_on_behalf_of(question)
        if not waiting.cancelled_caught:
            return
        if not self._board.synced.is_set():
            raise Unavailable("this replica has not read yet which sidecars live: ask again")
        raise Unavailable(f"this replica already gathers the answers to {AT_ONCE} questions: ask again")

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
        """What comes when there is no room any more is passed over, as if it had not come."""
        prefix = self._store.keyspace.answers(question.id)
        heard: set[StatusRef] = set()
        room = GATHERED_BYTES
        try:
            async with self._store.watch(prefix, revision) as watch:
                async for batch in watch:
                    for one in batch.events:
                        namespace, _, sidecar = one.kv.key.removeprefix(prefix).decode().partition("/")
                        ref, size = StatusRef(namespace, sidecar), len(one.kv.value)
                        if one.deleted or ref in heard:
                            continue
                        heard.add(ref)
                        if size <= room:
                            into[ref], room = one.kv.value, room - size
                    if asked <= heard:
                        return
        except MustListAgain as error:
            raise Unavailable(f"the answers were lost: {error}; ask again") from error

    async def _take_away(self, lease: int) -> None:
        try:
            await self._store.revoke_lease(lease)
        except MeshError:
            return  # its end does it

    async def answer(self, message: pb.AnswerRequest, call: Call) -> pb.AnswerReply:
        """Kept for as long as somebody waits for it. Raises NotFound where nobody does any more, or no status says that
        this sidecar lives; Conflict where it has said something else."""
        instance = Instance.of(call.caller.service, message.instance)
        call.tell(instance=instance)
        _check_size(message.answer, MAX_ANSWER_BYTES)
        said = convert.record_from(message.answer, Answer, "answer")
        if Instance(ServiceRef(said.namespace, said.service), said.instance) != instance:
            raise InvalidInput(Problem("answer", f"speaks of {said.instance}, and comes from {instance}"))
        if not _is_id(message.question):
            raise InvalidInput(Problem("answer", "names no question", "question", "give the id of one in etcd"))
        keys, ref = self._store.keyspace, instance.status_ref
        key, own, status = keys.question(message.question), keys.answer(message.question, ref), keys.status(ref)
        found = await self._store.get_many((key, own, status))
        held = found.get(key)
        if held is None:
            raise _nobody_waits(message.question)
        question = codec.decode(held.value, Question, "question")
        if question.services and str(instance.service) not in question.services:
            raise InvalidInput(Problem("answer", f"comes from {instance}, which the question is not put to"))
        if status not in found:
            raise NotFound(f"no sidecar lives that is {instance}: nobody asks it")
        _check_size(message.answer, question.max_bytes)
        if own in found:
            if found[own].value != message.answer:
                raise Conflict(f"{instance} has answered the question {question.id} already")
            return pb.AnswerReply()
        try:
            guards = (LeaseGuard(key, held.lease), KeyGuard(own, 0))
            written = await self._store.transact(guards, (Put(own, message.answer, held.lease),))
        except LeaseGone:
            written = None
        if written is None:
            raise _nobody_waits(question.id)
        return pb.AnswerReply()


def _check_size(answer: bytes, limit: int) -> None:
    if len(answer) > limit:
        text = f"{len(answer)} bytes, and one answer may have {limit}"
        raise LimitExceeded(Problem("answer", text, remedy="answer less"))


def _nobody_waits(question_id: str) -> NotFound:
    return NotFound(f"nobody waits for an answer to the question {question_id} (any more)")


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


def _sized(question: Question, asked: int) -> Question:
    """So that all answers have room. A request is in the logs of few, and nobody knows of which."""
    if question.about != "flows":
        return question
    room = max(LEAST_BYTES, min(MAX_ANSWER_BYTES, GATHERED_BYTES // asked))
    return msgspec.structs.replace(question, max_bytes=room)


def _is_id(text: str) -> bool:
    return len(text) == 32 and not set(text) - set("0123456789abcdef")


def _name(ref: StatusRef) -> str:
    return f"{ref.namespace}/{ref.sidecar}"
