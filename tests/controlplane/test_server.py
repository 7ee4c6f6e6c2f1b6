"""The replica as a process, and the CA that it keeps in force."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import trio
import trio.testing
from cryptography import x509

from controlplane.api.issuing import Issuing, Told
from controlplane.authority_keeper import AuthorityKeeper
from controlplane.bootstrap.genesis import Genesis
from controlplane.config import ReplicaConfig
from controlplane.exit_codes import ExitCode
from controlplane.server import judge_version
from controlplane.store.boards import MeshView
from deploy.etcd import EtcdBinary
from schemas import codec
from schemas.api import mesh_pb2 as pb
from schemas.errors import InvalidInput
from schemas.keys import Keyspace
from tests.controlplane.bootstrap.test_genesis import make
from tests.controlplane.domain.objects import service
from tests.controlplane.replica import Caller, Mesh, running_replica
from tests.spiffe.certificates import NOW
from tests.support.net import eventually, free_ports
from trio_etcd import KeyValue, Listing
from trio_grpc import Channel, RpcError

ENDS_SECONDS = 15


def configured(mesh: Mesh, directory: Path) -> ReplicaConfig:
    """With fixed ports, since a process can't tell us those that the kernel gave."""
    settings = mesh.config(directory)
    api, join = free_ports(2)
    listen = msgspec.structs.replace(settings.listen, api=f"127.0.0.1:{api}", join=f"127.0.0.1:{join}")
    etcd = msgspec.structs.replace(settings.etcd, allow_known_bad=True)
    return msgspec.structs.replace(settings, listen=listen, etcd=etcd)


class Process:
    """`mesh-controlplane` as a child, with its log in a file."""

    def __init__(self, settings: ReplicaConfig, directory: Path, **environ: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / "controlplane.yaml"
        path.write_bytes(msgspec.json.encode(settings))  # JSON is YAML
        self._log = directory / "log"
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "controlplane", "--config", str(path)],
                stdout=log,
                stderr=log,
                env={**os.environ, **environ},
            )

    @property
    def log(self) -> str:
        return self._log.read_text()

    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def exit_code(self) -> int:
        await eventually("the replica ends", self.has_ended, ENDS_SECONDS)
        return self._process.returncode

    async def until_logged(self, words: str) -> None:
        def logged() -> bool:
            assert not self.has_ended(), self.log
            return words in self.log

        await eventually(f"{words!r} in the log", logged)

    def close(self) -> None:
        self._process.kill()
        self._process.wait(ENDS_SECONDS)


@asynccontextmanager
async def process(settings: ReplicaConfig, directory: Path, **environ: str) -> AsyncIterator[Process]:
    started = Process(settings, directory, **environ)
    try:
        yield started
    finally:
        started.close()


async def test_ready_serve_and_end_in_good_order(mesh: Mesh, tmp_path: Path, namespace: str) -> None:
    settings = configured(mesh, tmp_path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(str(tmp_path / "notify"))
        notify.setblocking(False)
        environ = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "JOURNAL_STREAM": "1:2"}
        async with process(settings, tmp_path / "p", **environ) as replica:
            await replica.until_logged("ready")
            told = notify.recv(200)
            while b"READY=1" not in told:
                told = notify.recv(200)
            with Channel(f"unix:{settings.listen.socket}") as channel:
                admin = Caller(channel)
                assert (await admin.apply(pb.Change(put=codec.encode(service("a", namespace=namespace))))).revision
                async with admin.stream("Config/Watch", pb.WatchRequest(), pb.WatchEvent):
                    replica.send(signal.SIGTERM)
                    assert await replica.exit_code() == ExitCode.OK
            assert b"STOPPING=1" in notify.recv(200)
            assert "<6>accepted rpc=/mesh.v1.Config/Apply" in replica.log
            assert f"created Service {namespace}/a" in replica.log
            assert "Traceback" not in replica.log


async def test_a_replica_killed_while_it_applies_leaves_all_or_nothing(
    mesh: Mesh, tmp_path: Path, namespace: str
) -> None:
    """Change sets of five objects, each naming its round; SIGKILL at any instant; then all five are of one round."""
    for attempt in range(3):
        settings = configured(mesh, tmp_path / str(attempt))
        answered = 0

        async def apply_until_it_dies(admin: Caller) -> None:
            nonlocal answered
            for number in range(1, 10_000):
                several = [service(f"s{n}", namespace=namespace, ports=(number,)) for n in range(5)]
                try:
                    await admin.apply(*(pb.Change(put=codec.encode(one)) for one in several))
                except RpcError:
                    return
                answered = number

        async with process(settings, tmp_path / str(attempt) / "p") as replica:
            await replica.until_logged("ready")
            with Channel(f"unix:{settings.listen.socket}") as channel:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(apply_until_it_dies, Caller(channel))
                    await eventually("some are applied", lambda: answered > 5)  # noqa: B023  (awaited in the loop)
                    await trio.sleep(0.003 * attempt)  # another instant of a change set each time
                    replica.send(signal.SIGKILL)
            assert await replica.exit_code() == -signal.SIGKILL
        async with mesh.client() as etcd:
            kvs = (await etcd.list(mesh.keyspace.config_of_kind("Service", namespace))).kvs
            assert len({kv.mod_revision for kv in kvs}) == 1
            rounds = {codec.decode_object(kv.value, "Service", "x").spec.ports[0].port for kv in kvs}  # type: ignore[union-attr]
            assert rounds <= {answered, answered + 1}
            assert len(rounds) == 1


async def test_it_waits_for_etcd_and_for_the_mesh_to_be_made(etcd_binary: EtcdBinary, tmp_path: Path) -> None:
    mesh = await Mesh.make(etcd_binary, tmp_path / "mesh", initialise=False)
    try:
        await mesh.etcd.stop()
        settings = configured(mesh, tmp_path)
        async with process(settings, tmp_path / "p") as replica:
            await replica.until_logged("waiting for etcd")
            await mesh.etcd.start()
            await replica.until_logged("meshadm init")
            await mesh.initialise()
            await replica.until_logged("ready trust_domain=shop.example")
            assert replica.log.count("waiting for etcd") == 1
            replica.send(signal.SIGTERM)
            assert await replica.exit_code() == ExitCode.OK
    finally:
        mesh.close()


async def test_it_ends_while_it_waits(mesh: Mesh, tmp_path: Path) -> None:
    settings = configured(mesh, tmp_path)
    away = msgspec.structs.replace(settings.etcd, endpoints=(f"127.0.0.1:{free_ports(1)[0]}",))
    async with process(msgspec.structs.replace(settings, etcd=away), tmp_path / "p") as replica:
        await replica.until_logged("waiting for etcd")
        replica.send(signal.SIGTERM)
        assert await replica.exit_code() == ExitCode.OK


async def test_a_port_that_is_taken(mesh: Mesh, tmp_path: Path) -> None:
    settings = configured(mesh, tmp_path)
    host, _, port = settings.listen.join.rpartition(":")
    with socket.socket() as taken:
        taken.bind((host, int(port)))
        taken.listen()
        async with process(settings, tmp_path / "p") as replica:
            assert await replica.exit_code() == ExitCode.UNAVAILABLE
            last = replica.log.splitlines()[-1]
            assert last.startswith("mesh-controlplane: ")
            assert settings.listen.join in last


async def test_what_waiting_would_not_mend_ends_with_one_line(mesh: Mesh, tmp_path: Path) -> None:
    settings = configured(mesh, tmp_path)
    open_directory = tmp_path / "open"
    open_directory.mkdir(mode=0o755)
    listen = msgspec.structs.replace(settings.listen, socket=str(open_directory / "api.sock"))
    no_file = msgspec.structs.replace(settings.etcd, ca="/nowhere/ca.crt")
    for name, wrong, code, told in (
        ("kek", msgspec.structs.replace(settings, kek="/nowhere/kek"), ExitCode.BAD_INPUT, "/nowhere/kek"),
        ("file", msgspec.structs.replace(settings, etcd=no_file), ExitCode.BAD_INPUT, "/nowhere/ca.crt"),
        ("open", msgspec.structs.replace(settings, listen=listen), ExitCode.DENIED, "chmod 0700"),
    ):
        async with process(wrong, tmp_path / name) as replica:
            assert await replica.exit_code() == code
            [line] = replica.log.splitlines()
            assert line.startswith("mesh-controlplane: ")
            assert told in line


async def test_a_second_replica_on_one_socket(mesh: Mesh, tmp_path: Path) -> None:
    async with running_replica(mesh, tmp_path) as first:
        settings = configured(mesh, tmp_path)
        assert settings.listen.socket == first.config.listen.socket
        async with process(settings, tmp_path / "p") as second:
            assert await second.exit_code() == ExitCode.UNAVAILABLE
            assert "already listens" in second.log


def test_a_known_bad_etcd_is_refused_unless_allowed(
    mesh: Mesh, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    allowing = configured(mesh, tmp_path)
    strict = msgspec.structs.replace(allowing, etcd=msgspec.structs.replace(allowing.etcd, allow_known_bad=False))
    with pytest.raises(InvalidInput, match=r"etcd at a:1: etcd 3\.5\.16: .*GHSA.*allowKnownBad"):
        judge_version("3.5.16", "a:1", strict)
    with caplog.at_level(logging.WARNING):
        judge_version("3.5.33", "a:1", strict)
        assert not caplog.records
        judge_version("3.5.30", "a:1", strict)
        judge_version("3.5.16", "a:1", allowing)
    assert len(caplog.records) == 3


# -- the CA in force


class Kept:
    """A keeper whose view of etcd is fed by hand."""

    def __init__(self, plan: Genesis, kek: object, clock: float) -> None:
        self.keyspace = Keyspace("/elsewhere/v1")
        self.view = MeshView(self.keyspace)
        self.values = dict(plan.puts)
        self.started = trio.current_time()
        told = Told(b"", (), (), (), "/elsewhere/v1")
        self.issuing = Issuing(told, lambda: clock + trio.current_time() - self.started, os.urandom)
        self.keeper = AuthorityKeeper(self.view, kek, self.issuing)  # type: ignore[arg-type]  # a LocalKey

    def feed(self) -> None:
        for prefix, held in (
            (self.keyspace.config_of_kind("Mesh"), self.view.meshes),
            (self.keyspace.trust(), self.view.bundles),
            (self.keyspace.ca(), self.view.ca),
        ):
            kvs = tuple(KeyValue(key, value, 5) for key, value in self.values.items() if key.startswith(prefix))
            held.listed(Listing(5, kvs))

    def serving(self) -> x509.Certificate:
        assert self.keeper.api_tls is not None
        assert self.keeper.join_tls is not None
        assert self.keeper.join_tls.current.cert == self.keeper.api_tls.current.cert
        assert self.keeper.join_tls.current.client_ca is None
        return x509.load_pem_x509_certificate(self.keeper.api_tls.current.cert)


async def test_the_serving_certificate_is_renewed_at_half_of_its_life(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "mesh.audit")
    kept = Kept(*await make(1), NOW)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(kept.keeper.run)
        kept.feed()
        await kept.keeper.wait_ready()
        first = kept.serving()
        await trio.sleep(1700)
        assert kept.serving() == first
        await trio.sleep(200)
        second = kept.serving()
        assert second.not_valid_after_utc > first.not_valid_after_utc
        assert second.public_key() != first.public_key()
        told = [record.__dict__["fields"] for record in caplog.records if record.name == "mesh.audit"]
        assert [one["serial"] for one in told] == [f"{one.serial_number:x}" for one in (first, second)]
        assert all(str(one["identity"]).endswith("/control-plane") and one["caller"] == "automatic" for one in told)
        nursery.cancel_scope.cancel()


async def test_a_broken_record_leaves_the_last_good_ca_in_force(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    kept = Kept(*await make(1), NOW)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(kept.keeper.run)
        kept.feed()
        await kept.keeper.wait_ready()
        good = kept.issuing.current()
        for key in kept.values:
            if key.startswith(kept.keyspace.ca()):
                kept.values[key] = b"\xc1"
        with caplog.at_level(logging.WARNING):
            kept.feed()
            await trio.sleep(100)
        assert kept.issuing.current() == good
        assert [getattr(record, "fields", {}).get("then") for record in caplog.records] == [
            "the last good one stays in force"
        ]
        nursery.cancel_scope.cancel()


async def test_without_a_mesh_it_waits(autojump_clock: trio.testing.MockClock) -> None:
    plan, kek = await make(1)
    kept = Kept(replace(plan, puts=()), kek, NOW)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(kept.keeper.run)
        kept.feed()
        await trio.sleep(100)
        assert kept.issuing.in_force is None
        kept.values = dict(plan.puts)
        kept.feed()
        await kept.keeper.wait_ready()
        nursery.cancel_scope.cancel()


def test_the_documented_codes() -> None:
    assert json.dumps({code.name: code.value for code in ExitCode}) == json.dumps(
        {
            "OK": 0, "UNEXPECTED": 1, "BAD_INPUT": 2, "NOT_FOUND": 3, "CONFLICT": 4, "UNAVAILABLE": 5, "DENIED": 6,
            "TIMED_OUT": 7, "REFUSED_BY_SIDECAR": 8, "EXPIRING": 9, "ALARM": 10,
            "NOT_ENDED": 11,
        }
    )  # fmt: skip
