"""etcd put back to an older state, by its data directory or by a snapshot, under replicas that run and that start."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
import trio

from controlplane.floors import FLOOR_FILE, Floors
from controlplane.restores import FILE, Restores
from controlplane.store.etcd import Store
from deploy.etcd import EtcdBinary
from schemas import codec
from schemas.api import mesh_pb2 as pb
from schemas.errors import InvalidInput
from schemas.names import ServiceRef
from schemas.records import Beacon, Epoch, HostAuthority, Operator, Revocation
from tests.controlplane.access import Person, forget_hosts, grant, join_with_certificate, log_in, trust_hosts, where
from tests.controlplane.access import revoke as revoke_operator
from tests.controlplane.api.test_revocation import revoke, until_denied
from tests.controlplane.replica import Mesh, Replica, new_csr, new_id, running_replica
from tests.support.net import eventually
from tests.support.pki import Authority
from trio_grpc import RpcError, StatusCode

CORP = Authority.create("corp hosts")
SECONDS = 15.0  # of what takes milliseconds once etcd answers; a bound for a busy machine


@pytest.fixture(scope="module")
def own_mesh(etcd_binary: EtcdBinary, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """Its etcd is put back by each test, so nobody else may use it."""
    made = trio.run(Mesh.make, etcd_binary, tmp_path_factory.mktemp("restored"))
    yield made
    made.close()


class Backup:
    """Of etcd's data: taken now, put back later."""

    def __init__(self, mesh: Mesh, directory: Path) -> None:
        self.mesh = mesh
        self.copy = directory / "backup"

    async def take(self) -> None:
        await self.mesh.etcd.stop()
        shutil.copytree(self.mesh.etcd.data_dir, self.copy)
        await self.mesh.etcd.start()

    async def put_back(self, *, bump: bool) -> None:
        """bump: afterwards revisions are above all that were ever seen, as etcd's own tool does it when told to."""
        data = self.mesh.etcd.data_dir
        await self.mesh.etcd.stop()
        shutil.rmtree(data)
        if bump:
            await self.mesh.etcd.restore_snapshot(self.copy / "member" / "snap" / "db", bump_revision=1_000_000)
        else:
            shutil.copytree(self.copy, data)
        await self.mesh.etcd.start()


async def epoch(mesh: Mesh) -> str:
    async with mesh.client() as client:
        kv = await client.get(mesh.keyspace.epoch())
    assert kv is not None
    return codec.decode(kv.value, Epoch, "epoch").id


async def join_code(replica: Replica, token: pb.CreateTokenReply) -> StatusCode | None:
    request = pb.JoinRequest(token=token.token, csr=new_csr()[1], etcd_csr=new_csr()[1])
    async with replica.stranger(token.trust_bundle) as stranger:
        try:
            await stranger.call("Identity/Join", request, pb.IdentityReply)
        except RpcError as error:
            return error.code
    return None


async def settled_code(replica: Replica, token: pb.CreateTokenReply) -> StatusCode | None:
    """As soon as etcd can be asked again. None: it was let in."""
    with trio.fail_after(SECONDS):
        while (code := await join_code(replica, token)) is StatusCode.UNAVAILABLE:  # noqa: ASYNC110  (no event)
            await trio.sleep(0.02)
    return code


@pytest.mark.fault(5)
@pytest.mark.fault(17)
@pytest.mark.parametrize("bump", [False, True], ids=["older revision", "bumped revision"])
@pytest.mark.parametrize("running", [True, False], ids=["replica runs", "replica starts later"])
async def test_after_a_restore_used_tokens_stay_used_and_the_revoked_revoked(
    own_mesh: Mesh, tmp_path: Path, namespace: str, bump: bool, running: bool
) -> None:
    backup, state = Backup(own_mesh, tmp_path), str(tmp_path / "state")
    async with running_replica(own_mesh, tmp_path, state_dir=state) as replica:
        rights = await Rights.given(replica, namespace)
        joined = await replica.join("orders", namespace)
        used, unused = [await replica.token("web", namespace) for _ in range(2)]
        before = await epoch(own_mesh)
        await backup.take()
        assert await settled_code(replica, used) is None
        await revoke(replica, namespace, "orders")
        await until_denied(joined, replica, StatusCode.PERMISSION_DENIED)
        await rights.take_away(replica)
        if running:
            await backup.put_back(bump=bump)
            await check_restored(own_mesh, replica, before, used, unused, namespace)
            await until_denied(joined, replica, StatusCode.PERMISSION_DENIED)
            await rights.check_gone(own_mesh, replica)
        else:
            await eventually("the token's use is on the disk", lambda: used.id in memory(tmp_path), SECONDS)
            await eventually("what was taken away is on the disk", lambda: rights.on_disk(tmp_path), SECONDS)
    if not running:
        await backup.put_back(bump=bump)
        async with running_replica(own_mesh, tmp_path, state_dir=state) as replica:
            assert await epoch(own_mesh) != before  # before anybody could ask for anything
            await rights.check_gone(own_mesh, replica)
            await check_restored(own_mesh, replica, before, used, unused, namespace)
            await until_denied(joined, replica, StatusCode.PERMISSION_DENIED)


@dataclass
class Rights:
    """An operator who is revoked, one who may less, a host authority that goes and one that vouches for less."""

    names: str
    gone: Person
    less: Person

    @classmethod
    async def given(cls, replica: Replica, names: str) -> Rights:
        await trust_hosts(replica, f"{names}-gone", CORP, any=f"{names}-g/*")
        await trust_hosts(replica, f"{names}-less", CORP, any=f"{names}-l/*", cn__db1=f"{names}-d/*")
        people = [await log_in(replica, f"{names}-{one}", "admin") for one in ("gone", "less")]
        return cls(names, *people)

    async def take_away(self, replica: Replica) -> None:
        await revoke_operator(replica, self.gone.name)
        await grant(replica, self.less.name, "viewer")
        await forget_hosts(replica, f"{self.names}-gone")
        await trust_hosts(replica, f"{self.names}-less", CORP, cn__db1=f"{self.names}-d/*")

    def on_disk(self, directory: Path) -> bool:
        path = directory / "state" / FLOOR_FILE
        found = msgspec.msgpack.decode(path.read_bytes())
        operators = [codec.decode(value, Operator, "floor") for value in found["operators"]]
        authorities = found["authorities"]
        (less,) = (one for one in operators if one.name == self.less.name)
        return (
            less.role == "viewer"
            and any(one.revoked for one in operators if one.name == self.gone.name)
            and not authorities[f"{self.names}-gone"][1]
            and len(codec.decode(authorities[f"{self.names}-less"][1], HostAuthority, "floor").rules) == 1
        )

    async def check_gone(self, mesh: Mesh, replica: Replica) -> None:
        """From the first answer on; and soon in etcd too, for replicas that know less."""
        for person, rpc in ((self.gone, "Config/List"), (self.less, "Operators/List")):
            async with Person(replica, person.name, person.reply, person.key).calls() as caller:
                with pytest.raises(RpcError) as caught:
                    await caller.call(rpc, pb.ListRequest(), pb.ListReply)
                assert caught.value.code is StatusCode.PERMISSION_DENIED, caught.value
        assert await self.joins(replica, "d")
        assert not await self.joins(replica, "g")
        assert not await self.joins(replica, "l")

        async def put_right() -> bool:
            async with mesh.client() as client:
                gone, less = [await client.get(mesh.keyspace.operator(one.name)) for one in (self.gone, self.less)]
                hosts = [await client.get(mesh.keyspace.attestor(f"{self.names}-{one}")) for one in ("gone", "less")]
            assert gone is not None
            assert less is not None
            assert hosts[1] is not None
            return (
                codec.decode(gone.value, Operator, "gone").revoked is not None
                and codec.decode(less.value, Operator, "less").role == "viewer"
                and hosts[0] is None
                and len(codec.decode(hosts[1].value, HostAuthority, "less").rules) == 1
            )

        await eventually("etcd has it", put_right, SECONDS)
        # What is given from now on counts.
        assert (await log_in(replica, self.gone.name, "viewer")).reply.operator.role == "viewer"
        await trust_hosts(replica, f"{self.names}-gone", CORP, any=f"{self.names}-g/*")
        assert await self.joins(replica, "g")

    async def joins(self, replica: Replica, suffix: str) -> bool:
        leaf = CORP.issue("db1", dns=["db1"])
        async with replica.stranger((await where(replica)).trust_bundle) as stranger:
            try:
                await join_with_certificate(stranger, leaf, f"{self.names}-{suffix}", "orders")
            except RpcError as error:
                if error.code not in (StatusCode.PERMISSION_DENIED, StatusCode.UNAUTHENTICATED):
                    raise
                return False
        return True


async def check_restored(
    mesh: Mesh,
    replica: Replica,
    before: str,
    used: pb.CreateTokenReply,
    unused: pb.CreateTokenReply,
    namespace: str,
) -> None:
    assert await settled_code(replica, used) is StatusCode.UNAUTHENTICATED

    async def is_new() -> bool:
        return await epoch(mesh) != before

    await eventually("a new epoch", is_new, SECONDS)
    assert await settled_code(replica, unused) is StatusCode.UNAUTHENTICATED

    async def is_back() -> bool:
        async with mesh.client() as client:
            kv = await client.get(mesh.keyspace.revocation(ServiceRef(namespace, "orders")))
        return kv is not None and codec.decode(kv.value, Revocation, "revocation").revoked

    await eventually("the revocation is in etcd again", is_back, SECONDS)
    assert await settled_code(replica, await new_token(replica, namespace)) is None


async def new_token(replica: Replica, namespace: str) -> pb.CreateTokenReply:
    """Where a new epoch is followed by another, what was made in the first is refused: then it is asked again."""
    with trio.fail_after(SECONDS):
        while True:
            try:
                return await replica.token("web", namespace)
            except RpcError as error:
                if error.code is not StatusCode.ABORTED:
                    raise


def memory(directory: Path) -> dict[str, object]:
    path = directory / "state" / FILE
    found: dict[str, object] = msgspec.msgpack.decode(path.read_bytes())["tokens"] if path.exists() else {}
    return found


async def test_restarts_of_replica_and_etcd_are_no_restore(own_mesh: Mesh, tmp_path: Path, namespace: str) -> None:
    before = await epoch(own_mesh)
    for _ in range(2):
        async with running_replica(own_mesh, tmp_path, state_dir=str(tmp_path / "state")) as replica:
            token = await replica.token("web", namespace)
            await own_mesh.etcd.restart(kill=True)
            assert await settled_code(replica, token) is None
    assert await epoch(own_mesh) == before


# -- what is compared, one by one


@pytest.mark.fault(5)
async def test_one_restore_is_one_new_epoch_whoever_notices(own_mesh: Mesh) -> None:
    keyspace = own_mesh.keyspace
    async with own_mesh.client() as client:
        first, second = (
            Restores(Store(client, keyspace), None, f"w-{new_id()}", lambda: 0.0, secrets.token_bytes) for _ in range(2)
        )
        for one in (first, second):
            await one.settle()
            await one.settle()
        before = await epoch(own_mesh)
        for one in (first, second):
            await client.put(one.key, codec.encode(Beacon(replica="x", count=1)))
        await first.settle()
        after = await epoch(own_mesh)
        assert after != before
        await second.settle()
        await first.settle()
        assert await epoch(own_mesh) == after
        await client.delete(second.key)
        await second.settle()
        assert await epoch(own_mesh) not in (before, after)


@pytest.mark.fault(17)
async def test_a_token_with_fewer_uses_than_before_is_a_restore(own_mesh: Mesh, tmp_path: Path, namespace: str) -> None:
    """Also where the backup is younger than the last beacon, and another replica has written since."""
    async with running_replica(own_mesh, tmp_path) as replica, own_mesh.client() as client:
        token = await replica.token("web", namespace)
        key = own_mesh.keyspace.token(token.id)
        unused = await client.get(key)
        assert unused is not None
        assert await settled_code(replica, token) is None
        before = await epoch(own_mesh)
        await client.put(key, unused.value, lease=unused.lease)
        assert await settled_code(replica, token) is StatusCode.UNAUTHENTICATED
        assert await epoch(own_mesh) != before


@pytest.mark.parametrize("content", [b"\xc1", b"\x81\xa1x" + b"\x91" * 100_000], ids=["garbage", "nested"])
async def test_a_memory_that_cant_be_read_is_no_start(own_mesh: Mesh, tmp_path: Path, content: bytes) -> None:
    for name in (FILE, FLOOR_FILE):
        (tmp_path / name).write_bytes(content)
    async with own_mesh.client() as client:
        store = Store(client, own_mesh.keyspace)
        with pytest.raises(InvalidInput, match="can't be read"):
            Restores(store, tmp_path, "x", lambda: 0.0, secrets.token_bytes)
        with pytest.raises(InvalidInput, match="can't be read"):
            Floors(store, tmp_path)


async def test_many_uses_at_once_are_no_restore(own_mesh: Mesh, tmp_path: Path, namespace: str) -> None:
    async with running_replica(own_mesh, tmp_path) as replica:
        token, before = await replica.token("web", namespace), await epoch(own_mesh)
        codes: list[StatusCode | None] = []

        async def one() -> None:
            codes.append(await settled_code(replica, token))

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(one)
        assert codes.count(None) == 1
    assert await epoch(own_mesh) == before
