"""Real etcd servers for tests: start, stop, kill, freeze, restart on the same data.

The process is a plain `subprocess.Popen`, not tied to one `trio.run`, so that one server can serve a whole session.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import trio

from deploy.etcd import EtcdBinary
from tests.support.net import READY_SECONDS, eventually, free_ports
from tests.support.pki import TlsPaths

_STOP_SECONDS = 10.0  # etcd ends in 0.1 s on SIGTERM; a bound for a busy machine
_LOG_TAIL = 40  # lines shown when a test fails
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 -- where it exists; data goes into a fresh directory of mode 0700

_DATA_PREFIX = "hostmesh-test-"  # then the pid of the run, so that the next one can tell what nobody uses any more

# Elections within 0.2 s, and no fsync: tests are about behaviour, not about surviving a power cut.
_FAST = ("--heartbeat-interval", "10", "--election-timeout", "100", "--unsafe-no-fsync")


@dataclass(frozen=True)
class _Member:
    name: str
    client_port: int
    peer_port: int
    metrics_port: int

    def peer(self, host: str) -> str:
        return f"http://{host}:{self.peer_port}"


class EtcdServer:
    """One etcd process on `host`. Use `etcd_factory` of conftest, which closes it; or call `close` yourself.

    With `tls`, clients must present a certificate that `tls.ca` (or `client_ca`) signed. `extra` are further flags.
    """

    running: ClassVar[set[EtcdServer]] = set()
    """All that were started and not closed: for the report of a failed test."""

    def __init__(
        self,
        binary: EtcdBinary,
        *,
        tls: TlsPaths | None = None,
        client_ca: Path | None = None,
        host: str = "127.0.0.1",
        extra: Sequence[str] = (),
        _member: _Member | None = None,
        _cluster: Sequence[_Member] = (),
    ) -> None:
        self.binary = binary
        self.host = host
        self._tls = tls
        self._client_ca = client_ca or (tls.ca if tls else None)
        self._extra = tuple(extra)
        self._member = _member or _Member("m0", *free_ports(3, host))
        self._cluster = tuple(_cluster) or (self._member,)
        self._directory = new_data_directory()
        self._log = self._directory / "log"
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def members_of_cluster(
        cls,
        binary: EtcdBinary,
        size: int = 3,
        *,
        tls: TlsPaths | None = None,
        client_ca: Path | None = None,
        host: str = "127.0.0.1",
        extra: Sequence[str] = (),
    ) -> list[EtcdServer]:
        """`size` servers that know of each other and are not yet started: start them together (`start_all`)."""
        ports = free_ports(3 * size, host)
        members = [_Member(f"m{index}", *ports[3 * index : 3 * index + 3]) for index in range(size)]
        return [
            cls(binary, tls=tls, client_ca=client_ca, host=host, extra=extra, _member=member, _cluster=members)
            for member in members
        ]

    # --- where it is ---

    @property
    def name(self) -> str:
        return self._member.name

    @property
    def endpoint(self) -> str:
        """``host:port`` for clients."""
        return f"{self.host}:{self._member.client_port}"

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://{self.endpoint}"

    @property
    def pid(self) -> int:
        """Raises RuntimeError when it is not running."""
        return self._alive().pid

    @property
    def data_dir(self) -> Path:
        return self._directory / "data"

    def log_tail(self, lines: int = _LOG_TAIL) -> str:
        try:
            return "\n".join(self._log.read_text(errors="replace").splitlines()[-lines:])
        except FileNotFoundError:
            return ""

    # --- what one can do to it ---

    async def start(self) -> None:
        """Start and return when it is healthy: a leader is known and a read goes through it."""
        self.spawn()
        await self.wait_healthy()

    def spawn(self) -> None:
        """Start and return at once."""
        if self._process is not None and self._process.poll() is None:
            raise RuntimeError(f"etcd {self.name} already runs")
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(
                [*_end_with_parent(), *self._command()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={key: value for key, value in os.environ.items() if not key.startswith("ETCD_")},
            )
        self.running.add(self)

    async def wait_healthy(self, seconds: float = READY_SECONDS) -> None:
        """Raises AssertionError with the log's end when it is not healthy in `seconds`, or has ended."""

        async def healthy() -> bool:
            if self._process is None or self._process.poll() is not None:
                raise AssertionError(f"etcd {self.name} has ended:\n{self.log_tail()}")
            return await self._is_healthy()

        try:
            await eventually(f"etcd {self.name} is healthy", healthy, seconds)
        except AssertionError as late:
            raise AssertionError(f"{late}\n{self.log_tail()}") from None

    async def stop(self) -> None:
        """End it as an operator would (SIGTERM); the data stays."""
        await self._signal_and_wait(signal.SIGTERM)

    async def kill(self) -> None:
        """End it as a crash would (SIGKILL); the data stays."""
        await self._signal_and_wait(signal.SIGKILL)

    def pause(self) -> None:
        """Freeze it (SIGSTOP): connections stay open and nothing answers."""
        self._alive().send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._alive().send_signal(signal.SIGCONT)

    async def restart(self, *, kill: bool = False) -> None:
        """End it if it runs, then start it on the same data and the same ports."""
        if self._process is not None and self._process.poll() is None:
            await (self.kill() if kill else self.stop())
        await self.start()

    def close(self) -> None:
        """End it at once and remove its data. May be called twice, and when it never ran."""
        if self._process is not None:
            self._process.kill()  # also ends a frozen one
            self._process.wait(_STOP_SECONDS)
        self.running.discard(self)
        shutil.rmtree(self._directory, ignore_errors=True)

    async def ctl(self, *args: str, client: TlsPaths | None = None, check: bool = True) -> str:
        """Standard output and error of ``etcdctl`` with `args` against this server, `client` being its certificate.

        Raises AssertionError when it fails and `check` is set.
        """
        if self.binary.etcdctl is None:
            raise RuntimeError(f"no etcdctl beside {self.binary.path}")
        command = [str(self.binary.etcdctl), "--endpoints", self.url]
        if client is not None:
            command += ["--cacert", str(client.ca), "--cert", str(client.cert), "--key", str(client.key)]
        done = await trio.run_process(
            [*command, *args],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env={**os.environ, "ETCDCTL_API": "3"},
        )
        said = (done.stdout + done.stderr).decode()
        assert done.returncode == 0 or not check, f"etcdctl {' '.join(args)}: {said}"
        return said.strip()

    async def restore_snapshot(self, snapshot: Path, *, bump_revision: int) -> None:
        """Make the data directory, which must not exist, out of `snapshot` (or a copy of a member's ``snap/db``).

        Revisions go on `bump_revision` above the snapshot's, and what is before is marked as compacted.
        """
        member = self._member
        await self.ctl(
            "snapshot", "restore", str(snapshot), "--skip-hash-check",
            "--data-dir", str(self.data_dir), "--name", member.name,
            "--initial-cluster", ",".join(f"{one.name}={one.peer(self.host)}" for one in self._cluster),
            "--initial-advertise-peer-urls", member.peer(self.host),
            "--bump-revision", str(bump_revision), "--mark-compacted",
        )  # fmt: skip

    # --- how ---

    def _command(self) -> list[str]:
        member = self._member
        command = [
            str(self.binary.path),
            *("--name", member.name),
            *("--data-dir", str(self.data_dir)),
            *("--listen-client-urls", self.url),
            *("--advertise-client-urls", self.url),
            *("--listen-peer-urls", member.peer(self.host)),
            *("--initial-advertise-peer-urls", member.peer(self.host)),
            *("--initial-cluster", ",".join(f"{one.name}={one.peer(self.host)}" for one in self._cluster)),
            *("--listen-metrics-urls", f"http://{self.host}:{member.metrics_port}"),
            *("--logger", "zap", "--log-level", "warn"),
            *_FAST,
        ]
        if self._tls is not None:
            command += ["--cert-file", str(self._tls.cert), "--key-file", str(self._tls.key)]
            command += ["--trusted-ca-file", str(self._client_ca), "--client-cert-auth"]
        return [*command, *self._extra]

    async def _is_healthy(self) -> bool:
        # The metrics port speaks plain HTTP with TLS on as well, so that no client certificate is needed here.
        with trio.move_on_after(1):
            try:
                async with await trio.open_tcp_stream(self.host, self._member.metrics_port) as stream:
                    await stream.send_all(b"GET /health HTTP/1.0\r\n\r\n")
                    return b'"health":"true"' in b"".join([chunk async for chunk in stream])
            except (OSError, trio.BrokenResourceError):
                return False
        return False

    async def _signal_and_wait(self, number: signal.Signals) -> None:
        process = self._alive()
        process.send_signal(number)
        await eventually(f"etcd {self.name} ends on {number.name}", lambda: process.poll() is not None, _STOP_SECONDS)

    def _alive(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError(f"etcd {self.name} does not run")
        return self._process


async def start_all(servers: Sequence[EtcdServer]) -> None:
    """Start the members of a cluster at the same time: none is healthy before most of them run."""
    for server in servers:
        server.spawn()
    async with trio.open_nursery() as nursery:
        for server in servers:
            nursery.start_soon(server.wait_healthy)


def new_data_directory() -> Path:
    """In memory where that can be; removed by the next run if this one is killed."""
    return Path(tempfile.mkdtemp(prefix=f"{_DATA_PREFIX}{os.getpid()}-", dir=_data_base()))


def remove_data_of_dead_runs() -> None:
    """A run that was killed could not remove its data, and memory is what it takes up."""
    for directory in _data_base().glob(f"{_DATA_PREFIX}*"):
        pid = directory.name.removeprefix(_DATA_PREFIX).partition("-")[0]
        if not Path(f"/proc/{pid}").exists():
            shutil.rmtree(directory, ignore_errors=True)


def _data_base() -> Path:
    return _SHARED_MEMORY if os.access(_SHARED_MEMORY, os.W_OK) else Path(tempfile.gettempdir())


def _end_with_parent() -> list[str]:
    """A prefix that has the kernel end the server when the test run is killed and can't do it itself."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []
