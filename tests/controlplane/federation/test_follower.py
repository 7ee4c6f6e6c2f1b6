"""Replicas follow another trust domain's bundle into etcd; the other side is a real TLS server."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio

from controlplane.federation.follower import FederationEvent, Follower
from controlplane.store.etcd import Store
from controlplane.store.lock import locked
from schemas import codec
from schemas.errors import Conflict, NotFound
from schemas.names import SYSTEM_NAMESPACE
from schemas.objects import Metadata, federation
from schemas.objects.federation import BundleEndpoint, TrustBundleSpec
from schemas.records import FederationStatus, TrustBundle
from spiffe.bundle import record
from spiffe.jwks import encode
from tests.controlplane.federation.publisher import Publisher, publishing
from tests.controlplane.rotation.world import KEYS, Died, World, made_world
from tests.support.pki import Authority, pem

TD = "partner.example"
ID = f"spiffe://{TD}/bundles"
CA, NEXT, WEB = Authority.create(), Authority.create("next root"), Authority.create("web root")
ROOTS = {"first": CA.certificate, "next": NEXT.certificate}
TRUST_KEY, STATUS_KEY = KEYS.trust_bundle(TD), KEYS.federation_status(TD)


def document(*names: str, sequence: int = 1) -> bytes:
    return encode(record(TD, [ROOTS[name] for name in names], sequence))


@dataclass
class Scene:
    world: World
    publisher: Publisher
    followers: list[Follower] = field(default_factory=list)

    def follower(self, name: str = "r1", store: Store | None = None) -> Follower:
        return Follower(store or self.world.store(), name, lambda: self.world.now, lambda: 0.5)

    async def apply(
        self, *, spiffe: bool = False, bundle: bytes | None = None, name: str = "partner", url: str | None = None
    ) -> None:
        endpoint = BundleEndpoint(
            url=url or self.publisher.url,
            profile="https_spiffe" if spiffe else "https_web",
            endpoint_spiffe_id=ID if spiffe else None,
            web_ca=None if spiffe else pem(WEB.certificate).decode(),
        )
        await self.put(name, endpoint, bundle)

    async def put(self, name: str, endpoint: BundleEndpoint | None, bundle: bytes | None, domain: str = TD) -> None:
        spec = TrustBundleSpec(
            trust_domain=domain, bundle_endpoint=endpoint, bundle=bundle.decode() if bundle is not None else None
        )
        metadata = Metadata(name=name, namespace=SYSTEM_NAMESPACE)
        value = federation.TrustBundle(api_version="mesh/v1", metadata=metadata, spec=spec)
        await self.world.client.put(KEYS.object(value.ref), codec.encode(value))

    async def bundle(self) -> TrustBundle | None:
        kv = await self.world.client.get(TRUST_KEY)
        return codec.decode(kv.value, TrustBundle, "bundle") if kv else None

    async def trusted(self) -> set[str] | None:
        """By name; None: there is no bundle."""
        bundle = await self.bundle()
        if bundle is None:
            return None
        names = {encode(record(TD, [one], 1)): name for name, one in ROOTS.items()}
        return {
            names[encode(TrustBundle(trust_domain=TD, sequence=1, x509_authorities=(der,)))]
            for der in bundle.x509_authorities
        }

    async def status(self) -> FederationStatus:
        kv = await self.world.client.get(STATUS_KEY)
        assert kv is not None
        return codec.decode(kv.value, FederationStatus, "status")


@asynccontextmanager
async def made_scene(*, spiffe: bool = False) -> AsyncIterator[Scene]:
    leaf = CA.issue(uri=ID) if spiffe else WEB.issue(ip=["127.0.0.1"])
    async with made_world() as world, publishing(leaf) as publisher:
        publisher.serve(document("first"))
        yield Scene(world, publisher)


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    async with made_scene() as made:
        yield made


@pytest.fixture(autouse=True)
def _events(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "mesh.audit")


@pytest.mark.spiffe(23)
@pytest.mark.spiffe(24)
async def test_a_bundle_is_fetched_and_again_when_its_hint_is_over(scene: Scene) -> None:
    follower = scene.follower()
    assert await follower.advance() > 1
    await scene.apply()
    await follower.advance()
    assert await scene.trusted() == {"first"}
    scene.publisher.serve(document("first", "next", sequence=2))
    scene.world.now += 299
    await follower.advance()
    assert await scene.trusted() == {"first"}
    assert len(scene.publisher.asked) == 1
    scene.world.now += 1
    await follower.advance()
    assert await scene.trusted() == {"first", "next"}
    assert (await scene.status()).served_sequence == 2


@pytest.mark.spiffe(23)
async def test_https_spiffe_goes_on_with_the_latest_bundle() -> None:
    """The first fetch is verified by the bundle in the object, later ones by the newest that was fetched."""
    async with made_scene(spiffe=True) as scene:
        follower = scene.follower()
        await scene.apply(spiffe=True, bundle=document("first"))
        scene.publisher.serve(document("next", sequence=2))
        await follower.advance()
        assert await scene.trusted() == {"next"}
        scene.world.now += 300
        await follower.advance()  # it still serves with a certificate of the first root
        assert "not to be believed" in (await scene.status()).problem
        assert await scene.trusted() == {"next"}
        leaf = NEXT.issue(uri=ID)
        async with publishing(leaf) as moved:
            moved.serve(document("next", sequence=3))
            await scene.apply(spiffe=True, bundle=document("first"), url=moved.url)
            await follower.advance()
        status = await scene.status()
        assert (status.problem, status.served_sequence) == ("", 3)


@pytest.mark.spiffe(12)
@pytest.mark.spiffe(14)
@pytest.mark.fault(28)
@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (document("next", sequence=6), "older than what is known"),
        (document("next", sequence=7), "same spiffe_sequence"),
        (b"<html>", "not JSON"),
        (b'{"keys": [], "keys": []}', "twice"),
        (b"{}", "no array of keys"),
        (
            b'{"keys": [{"kty": "EC", "use": "jwt-svid", "kid": "a"}, {"kty": "EC", "use": "jwt-svid", "kid": "a"}]}',
            "bundle of partner.example",
        ),
    ],
    ids=["older", "changed", "no JSON", "a name twice", "no keys", "a key id twice"],
)
async def test_what_is_refused_changes_nothing_and_is_told(
    scene: Scene, answer: bytes, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    follower = scene.follower()
    scene.publisher.serve(document("first", sequence=7))
    await scene.apply()
    await follower.advance()
    before = await scene.bundle()
    scene.publisher.serve(answer)
    for _ in range(2):
        scene.world.now += 300
        await follower.advance()
    assert await scene.bundle() == before
    status = await scene.status()
    assert why in status.problem
    assert status.next == scene.world.now + 60
    assert [one.message for one in caplog.records].count(FederationEvent.REFUSED) == 1
    domain = await follower.fetch_now(TD)
    assert why in domain.problem
    scene.publisher.serve(document("next", sequence=8))
    assert (await follower.fetch_now(TD)).problem == ""
    assert await scene.trusted() == {"next"}


@pytest.mark.fault(28)
async def test_our_own_bundle_is_not_theirs(scene: Scene) -> None:
    ours = (await scene.follower().look()).own
    scene.publisher.serve(encode(ours))
    await scene.apply()
    await scene.follower().advance()
    assert await scene.trusted() is None
    assert "authority of" in (await scene.status()).problem


@pytest.mark.spiffe(12)
@pytest.mark.fault(28)
async def test_empty_keys_take_the_trust_away(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    await scene.apply()
    follower = scene.follower()
    await follower.advance()
    scene.publisher.serve(b'{"keys": [], "spiffe_sequence": 2}')
    await follower.fetch_now(TD)
    assert await scene.trusted() == set()
    assert FederationEvent.EMPTY in [one.message for one in caplog.records]


async def test_a_bundle_without_an_endpoint(scene: Scene) -> None:
    follower = scene.follower()
    await scene.put("partner", None, document("first", sequence=5))
    await follower.advance()
    first = await scene.bundle()
    assert await scene.trusted() == {"first"}
    with pytest.raises(NotFound, match="no bundleEndpoint"):
        await follower.fetch_now(TD)
    await scene.put("partner", None, document("next", sequence=1))  # an operator starts over
    await follower.advance()
    second = await scene.bundle()
    assert await scene.trusted() == {"next"}
    assert first is not None
    assert second is not None
    assert second.sequence > first.sequence


async def test_what_no_object_names_is_forgotten(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    follower = scene.follower()
    await scene.apply()
    await follower.advance()
    own = KEYS.trust_bundle((await follower.look()).own.trust_domain)
    key = KEYS.config_of_kind("TrustBundle") + b"mesh-system/partner"
    await scene.world.client.put(key, b"\xc1")  # whose it is can't be read: nothing is taken away
    await follower.advance()
    assert await scene.trusted() == {"first"}
    await scene.world.client.delete(key)
    await follower.advance()
    assert await scene.trusted() is None
    assert await scene.world.client.get(STATUS_KEY) is None
    assert await scene.world.client.get(own) is not None
    assert FederationEvent.FORGOTTEN in [one.message for one in caplog.records]
    with pytest.raises(NotFound):
        await follower.fetch_now(TD)


@pytest.mark.spiffe(14)
async def test_our_own_trust_domain_is_never_followed_nor_one_that_is_named_twice(scene: Scene) -> None:
    """Which replicas refuse to write."""
    follower = scene.follower()
    own = (await follower.look()).own
    await scene.put("ours", None, document("first"), domain=own.trust_domain)
    await follower.advance()
    assert (await follower.look()).own == own
    await scene.apply()
    await follower.advance()
    await scene.apply(name="again")
    scene.world.now += 300
    asked = len(scene.publisher.asked)
    await follower.advance()
    assert len(scene.publisher.asked) == asked
    assert "neither is followed" in (await follower.look()).domains[TD].problem


async def test_one_replica_at_a_time(scene: Scene) -> None:
    await scene.apply()
    async with trio.open_nursery() as nursery:
        for name in ("r1", "r2", "r3"):
            nursery.start_soon(scene.follower(name).advance)
    assert len(scene.publisher.asked) == 1
    async with locked(scene.world.store(), f"federation-{TD}", "r9", seconds=1):
        scene.world.now += 300
        await scene.follower().advance()
        assert len(scene.publisher.asked) == 1


async def test_a_replica_that_lost_the_lock_writes_nothing(scene: Scene) -> None:
    """It took too long: by then another one may be at it."""
    await scene.apply()
    store = scene.world.store()
    follower = scene.follower()
    seen = await follower.look()
    async with locked(store, f"federation-{TD}", "r1", seconds=1) as lock:
        await scene.world.client.revoke(lock.lease)
        with pytest.raises(Conflict):
            await follower._fetch(seen, seen.domains[TD], lock)
    assert await scene.trusted() is None


@pytest.mark.parametrize("applied", [False, True])
async def test_a_replica_that_dies_at_any_step_is_followed_by_another(applied: bool) -> None:
    for at in range(1, 5):
        async with made_scene(spiffe=True) as scene:
            await scene.apply(spiffe=True, bundle=document("first"))
            scene.publisher.serve(document("first", "next", sequence=2))
            with pytest.RaisesGroup(Died, flatten_subgroups=True, allow_unwrapped=True):
                await scene.follower(store=scene.world.mortal(at, applied=applied)).advance()
            lock = await scene.world.client.get(KEYS.lock(f"federation-{TD}"))
            if lock is not None:
                await scene.world.client.revoke(lock.lease)  # which its end would do
            await scene.follower("r2").advance()
            if (await scene.status()).next <= scene.world.now:
                await scene.follower("r2").advance()
            assert await scene.trusted() == {"first", "next"}, at
