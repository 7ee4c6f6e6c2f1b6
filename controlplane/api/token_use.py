"""[edge] Tokens in etcd: looked at, and used up in one transaction that counts."""

from dataclasses import dataclass

import trio

from controlplane.ca import tokens
from controlplane.ca.tokens import AnyToken
from controlplane.restores import Restores
from controlplane.store.etcd import PAUSE_SECONDS, Store
from controlplane.store.ops import Guard, KeyGuard, Put
from schemas import codec
from schemas.errors import Conflict, Corrupt, Problem, Unavailable
from schemas.records import Epoch, TokenUse
from trio_etcd import KeyValue


@dataclass(frozen=True, slots=True)
class Held:
    """A token's record and the store's epoch, as of one revision. `kv` None: there is no such token."""

    kv: KeyValue | None
    record: AnyToken | None
    epoch: str
    epoch_guard: KeyGuard


async def look(store: Store, token_id: str, restores: Restores | None = None) -> Held:
    """restores: is asked whether etcd still knows what it knew. Raises Corrupt, Unavailable."""
    while True:
        known = restores.known(token_id) if restores is not None else 0
        held = await _read(store, token_id)
        if restores is None or await restores.check(held.record, known):
            return held


async def _read(store: Store, token_id: str) -> Held:
    key, epoch_key = store.keyspace.token(token_id), store.keyspace.epoch()
    found = await store.get_many((key, epoch_key))
    epoch = found.get(epoch_key)
    if epoch is None:
        raise Corrupt(Problem(epoch_key.decode(), "missing", remedy="a restore writes it; see the documentation"))
    kv = found.get(key)
    return Held(
        kv,
        tokens.decode(kv.value, key.decode()) if kv is not None else None,
        codec.decode(epoch.value, Epoch, epoch_key.decode()).id,
        KeyGuard(epoch_key, epoch.mod_revision),
    )


async def use(
    store: Store,
    presented: tokens.Token,
    as_: TokenUse,
    *,
    now: float,
    seconds: float,
    guards: tuple[Guard, ...] = (),
    restores: Restores | None = None,
) -> int:
    """The revision at which one use of the token was counted as ours, while `guards` held. Safe after a lost answer:
    `as_.id` is unique, so our own use is known again.

    Raises Unauthenticated where the token is no good (any more); Conflict where `guards` do not hold; Unavailable
    within about `seconds` where etcd does not say.
    """
    deadline = trio.current_time() + seconds
    doubt: Unavailable | None = None
    while True:
        with trio.move_on_at(deadline) as bound:
            held = await look(store, presented.id, restores)
        if bound.cancelled_caught:
            raise doubt or Unavailable(f"no time was left to use token {presented.id}: ask again")
        if held.record is not None and held.kv is not None and any(one.id == as_.id for one in held.record.used):
            return held.kv.mod_revision
        tokens.check(presented, held.record, held.epoch, now)
        assert held.record is not None and held.kv is not None  # noqa: S101, PT018  (check refuses what is not there)
        used = tokens.consume(held.record, as_)
        consumed = codec.encode_over(held.kv.value, used)
        own = KeyGuard(held.kv.key, held.kv.mod_revision)
        try:
            revision = await store.transact(
                (own, held.epoch_guard, *guards), (Put(held.kv.key, consumed, held.kv.lease),)
            )
        except Unavailable as error:
            doubt = error
            if not error.outcome_unknown or trio.current_time() + PAUSE_SECONDS >= deadline:
                raise
            await trio.sleep(PAUSE_SECONDS)
            continue
        if revision is not None:
            if restores is not None:
                restores.remember(used, revision)
            return revision
        if guards and await _moved(store, guards):
            raise Conflict("who may log in changed meanwhile: ask again")


async def _moved(store: Store, guards: tuple[Guard, ...]) -> bool:
    wanted = {guard.key: guard.mod_revision for guard in guards if isinstance(guard, KeyGuard)}
    found = await store.get_many(wanted)
    return any((found[key].mod_revision if key in found else 0) != revision for key, revision in wanted.items())
