"""[edge] Attestation by a join token: whoever has it may be what it is bound to, as often as it says."""

from collections.abc import Callable

from controlplane.api import token_use
from controlplane.api.attestors.interface import Attestation
from controlplane.api.call import Call
from controlplane.ca import tokens
from controlplane.restores import Restores
from controlplane.store.etcd import Store
from schemas.api import mesh_pb2 as pb
from schemas.records import JoinToken, TokenUse


class JoinTokenAttestor:
    """`now`: seconds since 1970. `random(n)`: n unpredictable bytes."""

    def __init__(
        self,
        store: Store,
        now: Callable[[], float],
        random: Callable[[int], bytes],
        restores: Restores | None = None,
    ) -> None:
        self._store = store
        self._restores = restores
        self._now = now
        self._random = random

    async def attest(self, message: pb.JoinRequest, call: Call) -> Attestation:
        token = tokens.parse(message.token, JoinToken)
        call.tell(attestor="join_token", token=token.id)
        held = await token_use.look(self._store, token.id, self._restores)
        tokens.check(token, held.record, held.epoch, self._now())
        assert isinstance(held.record, JoinToken)  # noqa: S101  (check refuses all else)
        # Unique, so that after a lost answer of etcd we know our own use of the token from another's.
        use_id = self._random(8).hex()

        async def use(identity: str, seconds: float) -> int:
            now = self._now()
            as_ = TokenUse(at=int(now), by=call.caller.where, identity=identity, id=use_id)
            return await token_use.use(self._store, token, as_, now=now, seconds=seconds, restores=self._restores)

        return Attestation((tokens.selector_of(held.record),), f"join token {token.id}", use)
