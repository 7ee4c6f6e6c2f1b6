"""[edge] mesh.v1.Authority: the CA's life, seen and steered."""

from collections.abc import Awaitable, Callable

import trio

from controlplane.api.call import Call
from controlplane.api.dispatch import Rpc
from controlplane.api.request_id import request_of
from controlplane.ca import rotation
from controlplane.ca.facts import root_above
from controlplane.ca.gates import Hold
from controlplane.ca.rotation import Prepare
from controlplane.rotation import external
from controlplane.rotation.look import Look
from controlplane.rotation.steps import CaSteps, Done
from controlplane.rotation.write import Actor
from schemas.api import mesh_pb2 as pb
from schemas.errors import InvalidInput, Problem
from schemas.records import Rotation

# Between two looks at a rotation for somebody who follows it: quicker than a person reads.
FOLLOW_SECONDS = 0.5
# What operators call the keys that can be rotated.
ROLES = {"root": "mesh-root", "issuing": "mesh-issuing", "jwt": "mesh-jwt"}


class AuthorityService:
    def __init__(self, steps: CaSteps) -> None:
        self._steps = steps

    def rpcs(self) -> dict[str, Rpc]:
        return {
            "/mesh.v1.Authority/Status": Rpc(pb.AuthorityStatusRequest, unary=self.status),
            "/mesh.v1.Authority/Follow": Rpc(pb.FollowRotationRequest, stream=self.follow),
            "/mesh.v1.Authority/Rotate": Rpc(pb.RotateRequest, unary=self.rotate),
            "/mesh.v1.Authority/StopRotation": Rpc(pb.CaStepRequest, unary=self.stop_rotation),
            "/mesh.v1.Authority/Prepare": Rpc(pb.CaStepRequest, unary=self.prepare),
            "/mesh.v1.Authority/Activate": Rpc(pb.CaStepRequest, unary=self.activate),
            "/mesh.v1.Authority/Retire": Rpc(pb.CaStepRequest, unary=self.retire),
            "/mesh.v1.Authority/Remove": Rpc(pb.CaStepRequest, unary=self.remove),
            "/mesh.v1.Authority/Request": Rpc(pb.CaStepRequest, unary=self.request),
            "/mesh.v1.Authority/Install": Rpc(pb.InstallRequest, unary=self.install),
            "/mesh.v1.Authority/Reseal": Rpc(pb.ResealRequest, unary=self.reseal),
        }

    async def status(self, message: pb.AuthorityStatusRequest, call: Call) -> pb.AuthorityStatus:
        return _status(await self._steps.look())

    async def follow(
        self, message: pb.FollowRotationRequest, send: Callable[[pb.RotationProgress], Awaitable[None]], call: Call
    ) -> None:
        """Each change; the last message has `done`. Where none is under way, that is the only one."""
        told: pb.RotationProgress | None = None
        followed = ""
        while True:
            seen = await self._steps.look()
            current = seen.rotation
            if current is None or (followed and current.id != followed):
                last = pb.RotationProgress(done=True, sidecars=len(seen.facts.sidecars))
                if told is not None:
                    last.id, last.what, last.by, last.started = told.id, told.what, told.by, told.started
                await send(last)
                return
            followed = current.id
            progress = _progress(current, seen)
            if progress != told:
                await send(progress)
                told = progress
            await trio.sleep(FOLLOW_SECONDS)

    async def rotate(self, message: pb.RotateRequest, call: Call) -> pb.CaStepReply:
        """Starts it; replicas take the steps."""
        why = message.reason[:200]
        return _reply(await self._steps.start(_role(message.role), _actor(message, call), why=why, force=message.force))

    async def stop_rotation(self, message: pb.CaStepRequest, call: Call) -> pb.CaStepReply:
        return _reply(await self._steps.stop(_actor(message, call)))

    async def prepare(self, message: pb.CaStepRequest, call: Call) -> pb.CaStepReply:
        role = _role(message.role)
        step = Prepare("mesh-issuing", with_root=True) if role == "mesh-root" else Prepare(role)
        return _reply(await self._steps.prepare(step, _actor(message, call)))

    async def activate(self, message: pb.CaStepRequest, call: Call) -> pb.CaStepReply:
        return _reply(await self._steps.activate(_key(message), _actor(message, call), force=message.force))

    async def retire(self, message: pb.CaStepRequest, call: Call) -> pb.CaStepReply:
        return _reply(await self._steps.retire(_key(message), _actor(message, call)))

    async def remove(self, message: pb.CaStepRequest, call: Call) -> pb.CaStepReply:
        return _reply(await self._steps.remove((_key(message),), _actor(message, call), force=message.force))

    async def request(self, message: pb.CaStepRequest, call: Call) -> pb.CaRequestReply:
        done, csr = await external.request(self._steps, _actor(message, call))
        return pb.CaRequestReply(revision=done.revision, key=done.keys[0], csr=csr)

    async def install(self, message: pb.InstallRequest, call: Call) -> pb.CaStepReply:
        return _reply(await external.install(self._steps, tuple(message.chain), _actor(message, call)))

    async def reseal(self, message: pb.ResealRequest, call: Call) -> pb.CaStepReply:
        return _reply(await external.reseal(self._steps, message.kek_id, _actor(message, call), force=message.force))


Write = pb.RotateRequest | pb.CaStepRequest | pb.InstallRequest | pb.ResealRequest


def _actor(message: Write, call: Call) -> Actor:
    caller = call.caller
    return Actor(str(caller), caller.where, request_of(message, caller), caller.guards, call.seconds)


def _role(word: str) -> str:
    try:
        return ROLES[word]
    except KeyError:
        raise InvalidInput(Problem("role", f"{word!r} is none", "$.role", f"use {', '.join(ROLES)}")) from None


def _key(message: pb.CaStepRequest) -> str:
    if not message.key:
        raise InvalidInput(Problem("step", "names no key", "$.key", "`meshadm ca status` lists them"))
    return message.key


def _reply(done: Done) -> pb.CaStepReply:
    return pb.CaStepReply(revision=done.revision, keys=done.keys, passed=map(_hold, done.passed))


def _hold(hold: Hold) -> pb.CaHold:
    return pb.CaHold(who=hold.who, why=hold.why, until=hold.until or 0)


def _progress(current: Rotation, seen: Look) -> pb.RotationProgress:
    decision = rotation.next_step(current, seen.facts)
    return pb.RotationProgress(
        id=current.id,
        what=current.what,
        by=current.by,
        started=current.started,
        force=current.force,
        next=str(decision.step) if decision.step else "",
        holds=[] if current.force else map(_hold, decision.holds),
        sidecars=len(seen.facts.sidecars),
    )


def _status(seen: Look) -> pb.AuthorityStatus:
    facts = seen.facts
    presented = {aki: key_id for key_id, aki in facts.issuers.items()}
    due = rotation.due(facts)
    reply = pb.AuthorityStatus(
        trust_domain=seen.trust_domain,
        bundle_sequence=seen.bundle.sequence,
        svid_ttl_seconds=seen.mesh.spec.svid_ttl_seconds,
        due=due.why if due and seen.rotation is None else "",
    )
    for key_id, key in sorted(facts.keys.items(), key=lambda item: (item[1].role, item[0])):
        above = root_above(facts.keys, key)
        reply.keys.add(
            id=key_id,
            role=key.role,
            state=key.state,
            since=key.since,
            not_before=facts.starts.get(key_id, 0),
            not_after=key.not_after,
            external=not key.sealed or bool(above and not above.sealed),
            signed_by=above.id if above else "",
            kek_id=key.kek_id,
            presented_by=sum(facts.issuers.get(key_id) == one.issuer for one in facts.sidecars),
            forced=key.forced,
        )
    for one in seen.replicas:
        reply.replicas.add(
            name=one.name,
            seen=one.seen,
            trust_sequence=one.trust_sequence,
            issues_with=presented.get(one.issuing_key_id, one.issuing_key_id),
            svid_expires=one.svid_expires,
            kek_ids=one.kek_ids,
            files=[
                pb.CertificateFile(path=file.path, not_before=file.not_before, not_after=file.not_after)
                for file in one.files
            ],
        )
    if seen.rotation is not None:
        reply.rotation.CopyFrom(_progress(seen.rotation, seen))
    return reply
