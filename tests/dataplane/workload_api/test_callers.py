"""Who gets the identity: real processes, as the kernel shows them to the server."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import socket
import struct
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from dataplane.config import WorkloadApiCaller as Caller
from dataplane.workload_api import workload_pb2 as pb
from dataplane.workload_api.peer import SO_PEERGROUPS, SO_PEERPIDFD, Doubt, Peer
from tests.dataplane.workload_api.other_process import OtherProcess, connected
from tests.dataplane.workload_api.raw import RawClient
from tests.dataplane.workload_api.stage import ME, ORDERS_ID, Stage, running
from tests.support.net import eventually
from trio_grpc import StatusCode

PYTHON = os.path.realpath(sys.executable)
SLEEP = os.path.realpath("/bin/sleep")
NOBODY = 65534
SVID = "/SpiffeWorkloadAPI/FetchX509SVID"

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root starts processes of other users")


@pytest.fixture
def directory() -> Iterator[Path]:
    """Where every user may enter."""
    path = Path(os.path.realpath("/tmp")) / f"w{os.getpid()}-{os.urandom(4).hex()}"  # noqa: S108  (random name)
    path.mkdir(mode=0o755)
    yield path
    shutil.rmtree(path)


@asynccontextmanager
async def asked(stage: Stage, **options: Any) -> AsyncIterator[tuple[StatusCode | None, str]]:
    """How FetchX509SVID begins, asked by another process: None where it gets its SVID."""
    async with connected(stage.socket, **options) as other:
        client = RawClient(other.connection)
        yield await outcome(client)


async def outcome(client: RawClient) -> tuple[StatusCode | None, str]:
    answer = await client.begin(SVID)
    await client.news(answer)
    for message in answer.messages(pb.X509SVIDResponse):
        assert [one.spiffe_id for one in message.svids] == [str(ORDERS_ID)]
    return answer.code, answer.text


def _sha256(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


MY_GID = os.getegid()
PYTHON_HASH = _sha256(PYTHON)

ADMITTED = {
    "uid": Caller(uid=os.geteuid()),
    "gid": Caller(gid=MY_GID),
    "executable": Caller(executable=PYTHON),
    "hash": Caller(sha256=PYTHON_HASH),
    "hash in capitals": Caller(sha256=PYTHON_HASH.upper()),
    "all of it": Caller(uid=os.geteuid(), gid=MY_GID, executable=PYTHON, sha256=PYTHON_HASH),
}
REFUSED = {
    "uid": Caller(uid=os.geteuid() + 1),
    "gid": Caller(gid=54321),
    "unit": Caller(unit="web.service"),
    "executable": Caller(executable="/bin/sleep"),
    "hash": Caller(sha256="0" * 64),
    "all but the uid": Caller(uid=os.geteuid() + 1, gid=MY_GID, executable=PYTHON, sha256=PYTHON_HASH),
    "all but the gid": Caller(uid=os.geteuid(), gid=54321, executable=PYTHON, sha256=PYTHON_HASH),
    "all but the unit": Caller(uid=os.geteuid(), unit="web.service", executable=PYTHON, sha256=PYTHON_HASH),
    "all but the executable": Caller(uid=os.geteuid(), gid=MY_GID, executable="/bin/sleep", sha256=PYTHON_HASH),
    "all but the hash": Caller(uid=os.geteuid(), gid=MY_GID, executable=PYTHON, sha256="0" * 64),
}


@pytest.mark.spiffe(16)
@pytest.mark.parametrize("name", ADMITTED)
async def test_admitted_by(name: str, tmp_path: Path) -> None:
    async with running(tmp_path, callers=[REFUSED["unit"], ADMITTED[name]]) as stage:
        await stage.served()
        async with asked(stage) as (code, text):
            assert code is None, text


@pytest.mark.fault(18)
@pytest.mark.spiffe(17)
@pytest.mark.parametrize("name", REFUSED)
async def test_refused_by(name: str, tmp_path: Path) -> None:
    async with running(tmp_path, callers=[REFUSED[name]]) as stage:
        await stage.served()
        async with asked(stage) as (code, text):
            assert code is StatusCode.PERMISSION_DENIED
            assert "no identity" in text


@pytest.mark.spiffe(17)
async def test_no_selector_admits_nobody(tmp_path: Path) -> None:
    async with running(tmp_path, callers=[]) as stage:
        await stage.served()
        async with asked(stage) as (code, _):
            assert code is StatusCode.PERMISSION_DENIED


@as_root
@pytest.mark.fault(18)
async def test_another_user(directory: Path) -> None:
    """Of whom this process may not even know the executable without CAP_SYS_PTRACE; as root it may."""
    python = "/usr/bin/python3"
    async with running(directory, callers=[ME]) as stage:
        await stage.served()
        async with asked(stage, user=NOBODY, python=python) as (code, text):
            assert code is StatusCode.PERMISSION_DENIED
            assert f"uid {NOBODY}" in text
    async with running(directory, callers=[Caller(uid=NOBODY)]) as stage:
        await stage.served()
        async with asked(stage, user=NOBODY, python=python) as (code, text):
            assert code is None, text
        async with asked(stage) as (code, _):
            assert code is StatusCode.PERMISSION_DENIED


@as_root
async def test_a_supplementary_group(directory: Path) -> None:
    async with running(directory, callers=[Caller(gid=54321)]) as stage:
        await stage.served()
        for groups, admitted in (([54321, 100], True), ([100], False)):
            async with asked(stage, user=NOBODY, groups=groups, python="/usr/bin/python3") as (code, text):
                assert (code is None) == admitted, text


@as_root
async def test_the_unit_is_the_one_of_its_cgroup(directory: Path) -> None:
    with _cgroup("mesh-test.service") as cgroup:
        async with running(directory, callers=[Caller(unit="mesh-test.service")]) as stage:
            await stage.served()
            with _this_process_in(cgroup):
                async with asked(stage) as (code, text):
                    assert code is None, text
            async with asked(stage) as (code, _):
                assert code is StatusCode.PERMISSION_DENIED


@contextmanager
def _cgroup(name: str) -> Iterator[Path]:
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    place = next((Path(fields[1]) for fields in mounts if fields[2] == "cgroup2"), None)
    if place is None:
        pytest.skip("no cgroup2 here")
    cgroup = place / f"mesh{os.getpid()}" / name
    try:
        cgroup.mkdir(parents=True)
    except OSError as error:
        pytest.skip(f"can't make a cgroup: {error}")
    try:
        yield cgroup
    finally:
        for one in (cgroup, cgroup.parent):
            with contextlib.suppress(OSError):
                one.rmdir()


@contextmanager
def _this_process_in(cgroup: Path) -> Iterator[None]:
    """So that its children begin there."""
    here = Path("/proc/self/cgroup").read_text().splitlines()
    before = next(line.partition("::")[2] for line in here if line.startswith("0::"))
    (cgroup / "cgroup.procs").write_text(str(os.getpid()))
    try:
        yield
    finally:
        (cgroup.parents[1] / before.lstrip("/") / "cgroup.procs").write_text(str(os.getpid()))


# -- no more who it was


@asynccontextmanager
async def followed(stage: Stage) -> AsyncIterator[tuple[OtherProcess, RawClient, Any]]:
    """Another process with an open stream that has had its first message."""
    async with connected(stage.socket) as other:
        client = RawClient(other.connection)
        answer = await client.begin(SVID)
        await client.message(answer, pb.X509SVIDResponse)
        yield other, client, answer


@pytest.mark.fault(18)
async def test_a_process_that_became_another_program_gets_no_more(tmp_path: Path) -> None:
    async with running(tmp_path) as stage:
        await stage.served()
        async with followed(stage) as (other, client, answer):
            await other.become("/bin/sleep", "60")
            await stage.other_trust()
            await client.ended(answer)
            assert answer.code is StatusCode.PERMISSION_DENIED
            assert "connect again" in answer.text
            assert len(answer.messages(pb.X509SVIDResponse)) == 1  # that from before
            for method in ("FetchX509SVID", "FetchX509Bundles", "FetchJWTBundles"):
                again = await client.ended(await client.begin(f"/SpiffeWorkloadAPI/{method}"))
                assert again.code is StatusCode.PERMISSION_DENIED
            wants = pb.JWTSVIDRequest(audience=["a"]).SerializeToString()
            again = await client.ended(await client.begin("/SpiffeWorkloadAPI/FetchJWTSVID", wants))
            assert again.code is StatusCode.PERMISSION_DENIED
            assert "jwt" not in stage.ca.calls


@pytest.mark.fault(18)
async def test_it_is_refused_although_the_new_program_would_be_admitted(tmp_path: Path) -> None:
    async with running(tmp_path, callers=[Caller(executable=PYTHON), Caller(executable=SLEEP)]) as stage:
        await stage.served()
        async with followed(stage) as (other, client, answer):
            await other.become("/bin/sleep", "60")
            await stage.other_trust()
            await client.ended(answer)
            assert answer.code is StatusCode.PERMISSION_DENIED


@pytest.mark.fault(18)
async def test_a_connection_ends_with_the_process_that_made_it(tmp_path: Path) -> None:
    """The test has inherited it, and is of an admitted user itself."""
    async with running(tmp_path) as stage:
        await stage.served()
        async with followed(stage) as (other, client, _):
            await other.end()
            await client.closed()
        await eventually("its connection is given back", lambda: _none(stage), 10)


async def _none(stage: Stage) -> bool:
    return not stage.usage.connections


# -- what the kernel could say


class Said:
    """A connection of which the kernel says what the test wants."""

    def __init__(self, pid: int, pidfd: int | OSError, groups: list[int] | None = None, uid: int | None = None) -> None:
        uid = os.geteuid() if uid is None else uid
        self._ucred = struct.pack("iII", pid, uid, os.getegid())
        self._pidfd = pidfd
        self._groups = os.getgroups() if groups is None else groups

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        assert level == socket.SOL_SOCKET
        if option == socket.SO_PEERCRED:
            return self._ucred
        if option == SO_PEERGROUPS:
            return struct.pack(f"{len(self._groups)}I", *self._groups)
        assert option == SO_PEERPIDFD
        if isinstance(self._pidfd, OSError):
            raise self._pidfd
        return struct.pack("i", os.dup(self._pidfd))


async def attest(said: Said) -> Peer:
    return await Peer.attest(said, lambda _: False)  # type: ignore[arg-type]  # all of a socket that it asks


@pytest.mark.fault(18)
async def test_a_pid_that_was_given_anew_is_not_the_peer() -> None:
    """The pid is by now that of a process of the same user and program: this one. The pidfd knows better."""
    process = await trio.lowlevel.open_process([sys.executable, "-c", ""])
    pidfd = os.pidfd_open(process.pid)
    try:
        await process.wait()
        with pytest.raises(Doubt, match="ended"):
            await attest(Said(os.getpid(), pidfd))
    finally:
        os.close(pidfd)


async def test_the_peer_that_lives_is_attested_and_its_descriptor_given_back() -> None:
    before = len(os.listdir("/proc/self/fd"))
    pidfd = os.pidfd_open(os.getpid())
    peer = await attest(Said(os.getpid(), pidfd))
    os.close(pidfd)
    assert (peer.facts.pid, peer.facts.uid) == (os.getpid(), os.geteuid())
    peer.check()
    peer.close()
    with pytest.raises(Doubt):
        peer.check()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    "said",
    [
        Said(0, -1),
        Said(os.getpid(), OSError(errno.ESRCH, "no such process")),
        Said(2**22 + 1, OSError(errno.ENOPROTOOPT, "an old kernel")),
        Said(os.getpid(), OSError(errno.ENOPROTOOPT, "an old kernel"), groups=[54321]),
        Said(os.getpid(), OSError(errno.ENOPROTOOPT, "an old kernel"), uid=os.geteuid() + 1),
    ],
    ids=["another pid namespace", "ended", "ended, old kernel", "other groups", "other user"],
)
@pytest.mark.fault(18)
async def test_any_doubt_is_a_refusal(said: Said) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(Doubt):
        await attest(said)
    assert len(os.listdir("/proc/self/fd")) == before


async def test_a_kernel_without_peer_pidfds() -> None:
    peer = await attest(Said(os.getpid(), OSError(errno.ENOPROTOOPT, "before 6.5")))
    peer.check()
    peer.close()


async def test_only_whom_the_hash_can_admit_is_hashed() -> None:
    asked: list[int] = []
    pidfd = os.pidfd_open(os.getpid())

    def decides(facts: Any) -> bool:
        asked.append(facts.pid)
        return True

    peer = await Peer.attest(Said(os.getpid(), pidfd), decides)  # type: ignore[arg-type]  # as above
    os.close(pidfd)
    assert peer.facts.executable is not None
    assert (peer.facts.executable.path, peer.facts.executable.sha256) == (PYTHON, PYTHON_HASH)
    peer.close()
    assert asked == [os.getpid()]
