"""A program of the operator's has issuing keys signed: the mesh comes below that CA, and stays there, by itself."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import pytest
import trio
import trio.testing
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from controlplane.ca.facts import active, root_above
from controlplane.ca.make import signing_request
from controlplane.rotation.driver import SIGN_AGAIN_SECONDS
from controlplane.rotation.upstream import UpstreamSigner
from controlplane.rotation.write import Actor
from controlplane.store.lock import LOCK_SECONDS
from schemas.errors import InvalidInput, MeshError, Unavailable
from tests.controlplane.rotation.upstream_ca import UpstreamCa
from tests.controlplane.rotation.world import TRUST_DOMAIN, Died, World, made_world
from tests.spiffe.certificates import new_key

ME = Actor("test", "here")


class Upstream(UpstreamSigner):
    """Answers as a program would, by the world's clock."""

    def __init__(self, ca: UpstreamCa) -> None:
        super().__init__(("/upstream",), 1)
        self.ca = ca
        self.asked = 0
        self.fails = False
        self.issued: list[tuple[x509.Certificate, ...]] = []
        """Without the root."""

    async def sign(self, csr: bytes) -> tuple[bytes, ...]:
        self.asked += 1
        if self.fails:
            raise Unavailable("the upstream signer /upstream ended with 1: no route to the CA")
        chain = tuple(self.ca.sign(csr))
        self.issued.append(tuple(x509.load_der_x509_certificate(one) for one in chain[:-1]))
        return chain


async def settle(world: World, upstream: Upstream) -> None:
    """Whatever is due is done, and all that was retired is gone."""
    rotator, _ = world.rotator(world.store(), upstream=upstream)
    for _ in range(40):
        await world.everybody_follows()
        if await rotator.advance():
            world.now += 600
        await world.check()


async def issuing_and_root(world: World) -> tuple[str, bytes]:
    keys = await world.keys()
    key = active(keys, "mesh-issuing")
    assert key is not None
    root = root_above(keys, key)
    assert root is not None
    return key.id, root.chain[0]


async def test_the_mesh_comes_below_the_upstream_ca_and_stays_there(autojump_clock: trio.testing.MockClock) -> None:
    async with made_world() as world:
        upstream = Upstream(UpstreamCa(lambda: world.now))
        await settle(world, upstream)
        first, root = await issuing_and_root(world)
        assert x509.load_der_x509_certificate(root) == upstream.ca.root
        roles = [key.role for key in (await world.keys()).values()]
        assert roles.count("mesh-root") == roles.count("mesh-issuing") == 1, "the mesh's own root is gone"
        assert upstream.asked == 1
        await settle(world, upstream)
        assert upstream.asked == 1, "nothing is due"
        world.now += 16 * 24 * 3600  # of the 30 days that it signs for
        await settle(world, upstream)
        second, root = await issuing_and_root(world)
        assert (second != first, upstream.asked) == (True, 2)
        assert x509.load_der_x509_certificate(root) == upstream.ca.root


async def test_a_new_root_above_is_taken_up(autojump_clock: trio.testing.MockClock) -> None:
    async with made_world() as world:
        upstream = Upstream(UpstreamCa(lambda: world.now))
        await settle(world, upstream)
        upstream.ca = UpstreamCa(lambda: world.now)
        await world.steps(world.store(), upstream=True).start("mesh-issuing", ME, why="test")
        await settle(world, upstream)
        _, root = await issuing_and_root(world)
        assert x509.load_der_x509_certificate(root) == upstream.ca.root
        assert [key.role for key in (await world.keys()).values()].count("mesh-root") == 1


async def test_one_that_fails_is_asked_again_in_a_minute_and_harms_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with made_world() as world:
        before = await issuing_and_root(world)
        upstream = Upstream(UpstreamCa(lambda: world.now))
        upstream.fails = True
        rotator, _ = world.rotator(world.store(), upstream=upstream)
        errors = []
        for _ in range(20):
            await world.everybody_follows()
            try:
                await rotator.advance()
            except MeshError as error:
                errors.append(str(error))
        assert upstream.asked == 1
        assert ["no route to the CA" in one for one in errors] == [True]
        assert await issuing_and_root(world) == before
        await trio.sleep(SIGN_AGAIN_SECONDS)
        upstream.fails = False
        await rotator.advance()
        assert upstream.asked == 2


@pytest.mark.fault(15)
@pytest.mark.parametrize("applied", [False, True])
@pytest.mark.parametrize("at", range(4, 10))  # lock, effect and release of the request, then of the certificate
async def test_a_replica_killed_while_it_has_a_key_signed_is_followed_by_another(
    autojump_clock: trio.testing.MockClock, at: int, applied: bool
) -> None:
    async with made_world() as world:
        upstream = Upstream(UpstreamCa(lambda: world.now))
        await world.everybody_follows()
        rotator, _ = world.rotator(world.mortal(at, applied=applied), upstream=upstream)

        async def to_its_end() -> None:
            for _ in range(4):
                await rotator.advance()

        with pytest.raises(Died):
            await to_its_end()
        await world.check()
        await trio.sleep(LOCK_SECONDS + 1)  # of the clock that jumps: the lock that the dead one may have held
        assert (await world.look()).rotation is not None
        follower, _ = world.rotator(world.store(), upstream=upstream)
        for _ in range(4):
            await world.everybody_follows()
            await follower.advance()
            await world.check()
        key, root = await issuing_and_root(world)
        assert x509.load_der_x509_certificate(root) == upstream.ca.root
        keys = await world.keys()
        assert keys[key].chain == tuple(one.public_bytes(Encoding.DER) for one in upstream.issued[-1])
        assert "prepared" not in {one.state for one in keys.values()}, "no key is left over"


async def test_its_root_is_not_ours_to_rotate(autojump_clock: trio.testing.MockClock) -> None:
    async with made_world() as world:
        with pytest.raises(InvalidInput, match="upstream signer's"):
            await world.steps(world.store(), upstream=True).start("mesh-root", ME, why="test")


# -- the program


def program(text: str, *, seconds: float = 30) -> UpstreamSigner:
    return UpstreamSigner((sys.executable, "-c", text), seconds)


def request() -> bytes:
    return signing_request(TRUST_DOMAIN, "mesh-issuing-1", new_key())


def printing(chain: Sequence[bytes]) -> str:
    pem = b"".join(x509.load_der_x509_certificate(one).public_bytes(Encoding.PEM) for one in chain)
    return (
        "import os, sys; request = sys.stdin.read(); assert set(os.environ) <= {'PATH', 'LC_CTYPE'}, os.environ; "
        f"assert request.startswith('-----BEGIN CERTIFICATE REQUEST'); print({pem.decode()!r})"
    )


async def test_a_program_gets_the_request_and_prints_the_chain() -> None:
    csr = request()
    chain = tuple(UpstreamCa().sign(csr))
    assert await program(printing(chain)).sign(csr) == chain


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("import sys; sys.exit('no route')", Unavailable, "ended with 1: no route"),
        ("print('hello')", InvalidInput, "printed no certificates"),
        ("while True: print('x' * 65_536)", InvalidInput, "it printed more than 262144 bytes"),
        (
            "import sys; sys.stderr.write('x' * 500_000); sys.exit('no route')",
            Unavailable,
            "ended with 1: x{392}no route$",
        ),
    ],
    ids=["fails", "no chain", "endless", "talks much"],
)
async def test_what_a_program_may_do_wrong(text: str, error: type[MeshError], says: str) -> None:
    with pytest.raises(error, match=says):
        await program(text).sign(request())


async def test_a_program_that_takes_too_long_is_ended() -> None:
    with pytest.raises(Unavailable, match=r"within 0\.2 s"):
        await program("import time; time.sleep(60)", seconds=0.2).sign(request())


async def test_a_program_that_is_not_there() -> None:
    with pytest.raises(Unavailable, match="can't be run: No such file"):
        await UpstreamSigner(("/no/such/program",), 1).sign(request())
