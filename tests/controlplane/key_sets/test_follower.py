"""Replicas fetch keys of token issuers into etcd; the issuer is a real TLS server."""

from __future__ import annotations

import logging
import ssl
import threading
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from ipaddress import ip_network

import pytest
import trio

from authz.jwks import public_keys
from controlplane.config import TokenKeysConfig
from controlplane.https_get import Network
from controlplane.key_sets.decide import RETRY_SECONDS
from controlplane.key_sets.follower import KeySetEvent, KeySetFollower
from controlplane.store.lock import locked
from schemas import codec
from schemas.errors import Conflict
from schemas.key_sets import ca_digest, place
from schemas.names import ObjectRef
from schemas.records import KeySet, KeySetStatus
from tests.controlplane.federation.publisher import Publisher, answer, publishing
from tests.controlplane.rotation.world import KEYS, World, made_world
from tests.states.build import authentication
from tests.support.pki import Authority, pem
from tests.support.tokens import Issuer

WEB = Authority.create("web root")
CA = pem(WEB.certificate).decode()
ONE, TWO = Issuer("https://one.example"), Issuer("https://one.example", 1)
PREFIX = KEYS.config_of_kind("RequestAuthentication")


@dataclass
class Scene:
    world: World
    publisher: Publisher

    @property
    def uri(self) -> str:
        return self.publisher.url

    def follower(self, name: str = "r1", *refused: str, ahead: int = 0) -> KeySetFollower:
        """ahead: seconds by which its clock is wrong."""
        networks: list[Network] = [ip_network(one) for one in refused]
        return KeySetFollower(self.world.store(), name, lambda: self.world.now + ahead, lambda: 0.5, networks)

    async def advance(self, follower: KeySetFollower) -> float:
        """With all that etcd's watch would have told it."""
        places = follower.places
        for prefix, sink in (
            (PREFIX, places.naming),
            (KEYS.key_sets(), places.key_sets),
            (KEYS.key_set_statuses(), places.statuses),
        ):
            sink.listed(await self.world.client.list(prefix))
        return await follower.advance()

    async def name(self, name: str = "people", uri: str | None = None, ca: str | None = CA, every: str = "20m") -> None:
        rule = {"issuer": ONE.name, "jwksUri": uri or self.uri, "jwksRefreshInterval": every}
        value = authentication(name, rule | ({"jwksCa": ca} if ca is not None else {}))
        await self.world.client.put(KEYS.object(value.ref), codec.encode(value))

    async def unname(self, name: str = "people") -> None:
        await self.world.client.delete(KEYS.object(ObjectRef("RequestAuthentication", "shop", name)))

    async def key_set(self) -> KeySet | None:
        kv = await self.world.client.get(KEYS.key_set(place(self.uri, ca_digest(CA))))
        return codec.decode(kv.value, KeySet, "key set") if kv else None

    async def keys(self) -> str | None:
        found = await self.key_set()
        return found.jwks if found else None

    async def status(self, uri: str | None = None, ca: str | None = CA) -> KeySetStatus:
        kv = await self.world.client.get(KEYS.key_set_status(place(uri or self.uri, ca_digest(ca))))
        assert kv is not None
        return codec.decode(kv.value, KeySetStatus, "status")


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    async with made_world() as world, publishing(WEB.issue(ip=["127.0.0.1"])) as publisher:
        publisher.serve(ONE.jwks().encode())
        yield Scene(world, publisher)


@pytest.fixture(autouse=True)
def _events(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "mesh.audit")


async def test_keys_are_fetched_and_again_when_they_are_old(scene: Scene) -> None:
    follower = scene.follower()
    assert await scene.advance(follower) > 2
    await scene.name()
    await scene.advance(follower)
    first = scene.world.now
    assert await scene.keys() == public_keys(ONE.jwks())
    assert (await scene.status()).next == first + 1080  # 20 minutes, less what spreads them
    scene.world.now += 1079
    await scene.advance(follower)
    assert len(scene.publisher.asked) == 1
    scene.world.now += 1
    await scene.advance(follower)
    found, status = await scene.key_set(), await scene.status()
    assert found is not None
    assert (len(scene.publisher.asked), found.fetched, status.fetched) == (2, first, scene.world.now)
    scene.publisher.serve(TWO.jwks().encode())
    scene.world.now += 1080
    await scene.advance(follower)
    assert await scene.keys() == public_keys(TWO.jwks())


async def test_the_object_that_wants_them_newest_decides(scene: Scene) -> None:
    follower = scene.follower()
    await scene.name()
    await scene.name("hurried", every="1m")
    await scene.advance(follower)
    assert len(scene.publisher.asked) == 1
    assert (await scene.status()).next == scene.world.now + 54
    await scene.unname("hurried")
    scene.world.now += 60
    await scene.advance(follower)
    assert (await scene.status()).next == scene.world.now + 1080
    await scene.name("hurried", every="1m")
    scene.world.now += 60
    await scene.advance(follower)
    assert len(scene.publisher.asked) == 3


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (answer(200, b"<html>"), "gives no usable keys: it is not JSON"),
        (answer(200, b'{"keys": []}'), "no public key that verifies"),
        (answer(200, b'{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}'), "no public key that verifies"),
        (answer(200, b" " * 70_000), "more than 65536 bytes"),
        (answer(500, b""), "answers 500"),
        (answer(302, b"", "Location: https://127.0.0.1/\r\n"), "redirects are not followed"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "does not speak HTTP"),
    ],
    ids=["no JSON", "no keys", "a secret", "too long", "an error", "a redirect", "no HTTP"],
)
async def test_what_can_not_be_read_replaces_nothing(
    scene: Scene, given: bytes, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    follower = scene.follower()
    await scene.name()
    await scene.advance(follower)
    before = await scene.key_set()
    assert before is not None
    scene.publisher.answers["/"] = given
    scene.world.now += 1080
    for failures, seconds in ((1, 8), (2, 17), (3, 35)):
        await scene.advance(follower)
        status = await scene.status()
        assert why in status.problem
        assert (status.failures, status.next) == (failures, scene.world.now + seconds)
        scene.world.now = status.next
    assert await scene.key_set() == before
    assert [one.message for one in caplog.records].count(KeySetEvent.NOT_FETCHED) == 1
    scene.publisher.serve(TWO.jwks().encode())
    await scene.advance(follower)
    status = await scene.status()
    assert (status.problem, status.failures, await scene.keys()) == ("", 0, public_keys(TWO.jwks()))


async def test_who_does_not_prove_to_be_the_issuer_is_not_believed(scene: Scene) -> None:
    follower = scene.follower()
    other = pem(Authority.create("other").certificate).decode()
    for name, ca in (("of-the-host", None), ("of-another", other)):
        await scene.name(name, ca=ca)
        await scene.advance(follower)
        assert "not to be believed" in (await scene.status(ca=ca)).problem
    local = scene.uri.replace("127.0.0.1", "localhost")  # another name than the certificate's
    await scene.name("by-name", uri=local)
    await scene.advance(follower)
    assert "not to be believed" in (await scene.status(uri=local)).problem
    assert not (await scene.world.client.list(KEYS.key_sets())).kvs


async def test_the_cas_of_the_host_are_read_beside_the_loop(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """There are many of them, and everybody waits for the loop."""
    threads: list[threading.Thread] = []
    made = ssl.create_default_context

    def spied(**more: str | None) -> ssl.SSLContext:
        if more.get("cadata") is None:
            threads.append(threading.current_thread())
        return made(cadata=more.get("cadata"))

    monkeypatch.setattr(ssl, "create_default_context", spied)
    await scene.name("of-the-host", ca=None)
    await scene.advance(scene.follower())
    assert "not to be believed" in (await scene.status(ca=None)).problem
    assert len(threads) == 1
    assert threads[0] is not threading.current_thread()


async def test_nothing_is_asked_where_a_replica_may_not(scene: Scene) -> None:
    """By address, whatever the name: who writes an object learns nothing about the replica's own host."""
    refused = TokenKeysConfig().refused_networks
    await scene.name()
    local = scene.uri.replace("127.0.0.1", "localhost")
    await scene.name("by-name", uri=local)
    await scene.advance(scene.follower("r1", *refused))
    for uri in (scene.uri, local):
        assert "where this replica may not ask" in (await scene.status(uri=uri)).problem
    assert scene.publisher.asked == []


async def test_what_nobody_names_is_forgotten_when_it_is_old(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    follower = scene.follower()
    await scene.name()
    await scene.advance(follower)
    await scene.unname()
    await scene.advance(follower)
    assert await scene.keys() is not None
    scene.world.now += 1080
    await scene.world.client.put(PREFIX + b"shop/other", b"\xc1")  # which may name it
    await scene.advance(follower)
    assert await scene.keys() is not None
    await scene.world.client.delete(PREFIX + b"shop/other")
    await scene.advance(follower)
    assert await scene.keys() is None
    assert not (await scene.world.client.list(KEYS.key_set_statuses())).kvs
    assert KeySetEvent.FORGOTTEN in [one.message for one in caplog.records]


async def test_an_object_that_nobody_can_read_counts_for_what_it_said(scene: Scene) -> None:
    """Its last good value is in force in sidecars."""
    follower = scene.follower()
    await scene.name()
    await scene.advance(follower)
    await scene.world.client.put(PREFIX + b"shop/people", b"\xc1")
    scene.publisher.serve(TWO.jwks().encode())
    scene.world.now += 1200
    await scene.advance(follower)
    assert await scene.keys() == public_keys(TWO.jwks())


async def test_keys_that_somebody_took_away_or_spoiled_are_fetched_again(scene: Scene) -> None:
    follower = scene.follower()
    await scene.name()
    await scene.advance(follower)
    key = KEYS.key_set(place(scene.uri, ca_digest(CA)))
    for spoil in (b"\xc1", None):
        scene.world.now += RETRY_SECONDS
        if spoil is None:
            await scene.world.client.delete(key)
        else:
            await scene.world.client.put(key, spoil)
        await scene.advance(follower)
        assert await scene.keys() == public_keys(ONE.jwks())


async def test_keys_that_are_taken_and_yet_are_none_are_not_fetched_without_a_pause(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another version of a replica may see it otherwise."""
    fetched: list[str] = []

    async def fetch(uri: str, *_: object) -> str:
        fetched.append(uri)
        return "no keys"

    monkeypatch.setattr("controlplane.key_sets.follower.fetch", fetch)
    follower = scene.follower()
    await scene.name()
    for looks in (1, 2):
        for _ in range(4):
            await scene.advance(follower)
        assert len(fetched) == looks
        scene.world.now += RETRY_SECONDS


async def test_a_clock_that_was_ahead_keeps_nobody_from_fetching(scene: Scene) -> None:
    year = 365 * 86400
    wrong, right = scene.follower("r1", ahead=year), scene.follower("r2")
    await scene.name()
    await scene.advance(wrong)
    assert ((await scene.status()).tried, len(scene.publisher.asked)) == (scene.world.now + year, 1)
    await scene.advance(right)
    assert ((await scene.status()).tried, len(scene.publisher.asked)) == (scene.world.now, 2)
    for looks in (3, 6):  # nor do two that disagree fetch in turn without a pause
        for _ in range(4):
            await scene.advance(wrong)
            await scene.advance(right)
        assert len(scene.publisher.asked) == looks
        scene.world.now += 1200
    await scene.unname()
    await scene.advance(right)
    assert await scene.keys() is None


async def test_keys_are_read_when_they_change_and_not_at_each_look(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    follower = scene.follower()
    await scene.name()
    await scene.advance(follower)
    await scene.advance(follower)
    read: list[object] = []
    monkeypatch.setattr("authz.jwks._public", lambda element: read.append(element))
    for _ in range(3):
        await scene.advance(follower)
    assert (read, len(scene.publisher.asked)) == ([], 1)


async def test_one_replica_at_a_time(scene: Scene) -> None:
    await scene.name()
    async with trio.open_nursery() as nursery:
        for name in ("r1", "r2", "r3"):
            nursery.start_soon(scene.advance, scene.follower(name))
    assert len(scene.publisher.asked) == 1
    digest = place(scene.uri, ca_digest(CA)).digest
    async with locked(scene.world.store(), f"jwks-{digest}", "r9", seconds=1):
        scene.world.now += 1200
        await scene.advance(scene.follower())
        assert len(scene.publisher.asked) == 1


async def test_a_replica_that_lost_the_lock_or_the_object_writes_nothing(scene: Scene) -> None:
    await scene.name()
    follower, store = scene.follower(), scene.world.store()
    ref = place(scene.uri, ca_digest(CA))
    seen = await follower._seen(ref)
    source = seen.place.source
    assert source is not None
    async with locked(store, f"jwks-{ref.digest}", "r1", seconds=1) as lock:
        await scene.unname()
        with pytest.raises(Conflict):
            await follower._fetch(seen, source, lock)
        await scene.name()
        seen = await follower._seen(ref)
        await scene.world.client.revoke(lock.lease)
        with pytest.raises(Conflict):
            await follower._fetch(seen, source, lock)
    assert await scene.keys() is None


async def test_who_names_many_that_never_answer_holds_up_nobody(scene: Scene) -> None:
    follower = scene.follower()
    await scene.name()
    await scene.advance(follower)
    for number in range(20):
        await scene.name(f"dead-{number}", uri=f"https://127.0.0.1:1/{number}")
    scene.world.now += 1080
    scene.publisher.serve(TWO.jwks().encode())
    for tried in (8, 16, 20):
        await scene.advance(follower)
        assert await scene.keys() == public_keys(TWO.jwks())
        listed = (await scene.world.client.list(KEYS.key_set_statuses())).kvs
        failures = Counter(codec.decode(kv.value, KeySetStatus, "status").failures for kv in listed)
        assert (failures[0], failures.total()) == (1, 1 + tried)
        scene.world.now += 8
