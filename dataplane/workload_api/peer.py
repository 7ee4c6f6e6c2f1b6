"""[edge] The process at the other end of a Unix socket: who it is, and whether it still is who it was.

The kernel notes pid, uid and gid when the peer connects. A pid can come to mean another process, and a process can turn
into another program; so the peer is held by a pidfd that the kernel made for that very process (SO_PEERPIDFD, Linux
6.5), what /proc says counts only while the pidfd says that the process lives, and before each answer all of it must be
as it was. Any doubt is a refusal.

What no kernel tells: whether a process passed its connection on, or whether it became the program that it is between
connecting and our first look. Both are open to processes of the same user only, who could also ptrace each other. So
uid and unit are boundaries; executable and hash tell apart the programs of one user that trust each other.
"""

import errno
import hashlib
import os
import select
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

import trio

from dataplane.workload_api import proc
from dataplane.workload_api.callers import Executable, Facts

# asm-generic/socket.h; Python's socket module has no names for them.
SO_PEERGROUPS = 59
SO_PEERPIDFD = 77
_UCRED = struct.Struct("iII")  # struct ucred of unix(7): pid, uid, gid
# Executables whose hash is remembered: a host runs few, and each upgrade is a new one.
_MAX_HASHES = 64
# Larger executables are not hashed: it would keep a core busy for seconds, at the wish of any user of the host.
MAX_HASHED_BYTES = 512 * 1024 * 1024
_MAX_GROUPS = 256  # what Python's getsockopt has room for; a service user has a handful

FileId = tuple[int, int]
"""Device and inode: as long as a process runs a file, no other file gets them."""


class Doubt(Exception):
    """It can't be said who the peer is, or it is not any more who it was."""


@dataclass(frozen=True, slots=True)
class _Look:
    """What must not change as long as the connection lives."""

    start_ticks: int
    ids: proc.Ids
    unit: str | None
    executable: FileId | None
    """None: hidden from us, since it is another user's."""


class Peer:
    """Made by `attest`, which gives its facts; `check` before each use of them; `close` it."""

    def __init__(self, facts: Facts, pidfd: int, look: _Look) -> None:
        self.facts = facts
        self._pidfd = pidfd
        self._look = look

    @classmethod
    async def attest(cls, connection: trio.socket.SocketType, hash_decides: Callable[[Facts], bool]) -> Self:
        """hash_decides: whether the hash of the executable is asked for, by all else. Raises Doubt."""
        pid, uid, gid = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        if pid <= 0:
            raise Doubt("the peer is in a pid namespace that this host's init does not see")
        pidfd = _pidfd_of(connection, pid)
        try:
            look = _look(pid)
            _must_live(pidfd)
            if (look.ids.uids[1], look.ids.gids[1]) != (uid, gid):
                raise Doubt(f"pid {pid} is not any more of the user and group that it connected as")
            if look.ids.groups != _groups_of(connection):
                raise Doubt(f"pid {pid} has not any more the supplementary groups that it connected with")
            facts = Facts(pid, uid, look.ids.groups | {gid}, look.unit, _executable(pid, look.executable))
            if facts.executable is not None and look.executable is not None and hash_decides(facts):
                facts = replace(facts, executable=await _hashed(facts.executable, pid, look.executable))
            peer = cls(facts, pidfd, look)
            peer.check()  # nothing was read of two different processes or programs
            return peer
        except BaseException:
            os.close(pidfd)
            raise

    def check(self) -> None:
        """Raises Doubt unless the peer lives, and is the process, the user and the program that was attested."""
        if self._pidfd < 0:
            raise Doubt("the connection has ended")
        look = _look(self.facts.pid)
        _must_live(self._pidfd)
        if look != self._look:
            raise Doubt(f"{self.facts} has changed since it connected: connect again")

    async def wait_ended(self) -> None:
        """Until the process has ended."""
        await trio.lowlevel.wait_readable(self._pidfd)

    def close(self) -> None:
        pidfd, self._pidfd = self._pidfd, -1
        if pidfd >= 0:
            trio.lowlevel.notify_closing(pidfd)
            os.close(pidfd)


def peer_uid(connection: trio.socket.SocketType) -> int:
    """The user that the peer connected as."""
    uid: int = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))[1]
    return uid


def _groups_of(connection: trio.socket.SocketType) -> frozenset[int]:
    """The supplementary groups that the peer connected with."""
    try:
        packed = connection.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, 4 * _MAX_GROUPS)
    except OSError as error:
        raise Doubt(f"the peer's supplementary groups can't be had: more than {_MAX_GROUPS}?") from error
    return frozenset(struct.unpack(f"{len(packed) // 4}I", packed))


def _pidfd_of(connection: trio.socket.SocketType, pid: int) -> int:
    try:
        packed = connection.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD, 4)
    except OSError as error:
        if error.errno != errno.ENOPROTOOPT:  # a kernel before 6.5
            raise Doubt(f"pid {pid} has ended") from error
    else:
        pidfd: int = struct.unpack("i", packed)[0]
        return pidfd
    # Between connecting and this call the pid could have been freed and given anew; then it started meanwhile, and the
    # user that connected is compared with that of the process found.
    try:
        before = _look(pid)
        pidfd = os.pidfd_open(pid)
    except OSError as error:
        raise Doubt(f"pid {pid} has ended") from error
    if _look(pid) != before:
        os.close(pidfd)
        raise Doubt(f"pid {pid} is another process by now")
    return pidfd


def _must_live(pidfd: int) -> None:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    if poll.poll(0):
        raise Doubt("the peer has ended")


def _look(pid: int) -> _Look:
    try:
        texts = [_read(f"/proc/{pid}/{name}") for name in ("stat", "status", "cgroup")]
        return _Look(proc.start_ticks(texts[0]), proc.ids(texts[1]), proc.unit(texts[2]), _file_id(pid))
    except (OSError, proc.Unreadable) as error:
        raise Doubt(
            f"pid {pid} can't be looked at: it has ended, or /proc hides it (ProtectProc=, hidepid=)"
        ) from error


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def _file_id(pid: int) -> FileId | None:
    try:
        return _id_of(os.stat(f"/proc/{pid}/exe"))
    except PermissionError:
        return None


def _id_of(status: os.stat_result) -> FileId:
    return status.st_dev, status.st_ino


# -- the executable

_hashes: dict[tuple[int, ...], str] = {}
# Threads that hash: two, so that one large file does not make all wait, and other work of the agent never does.
_hashing = trio.CapacityLimiter(2)


def _executable(pid: int, file_id: FileId | None) -> Executable | None:
    if file_id is None:
        return None
    try:
        return Executable(_path_as_we_see_it(pid, file_id))
    except OSError as error:
        raise Doubt(f"the executable of pid {pid} can't be read") from error


async def _hashed(executable: Executable, pid: int, file_id: FileId) -> Executable:
    try:
        return replace(executable, sha256=await trio.to_thread.run_sync(_hash, pid, file_id, limiter=_hashing))
    except OSError as error:
        raise Doubt(f"the executable of pid {pid} can't be read") from error


def _path_as_we_see_it(pid: int, file_id: FileId) -> str | None:
    """A process in a mount namespace of its own could run any file under any name: ours must be the same file."""
    path = os.readlink(f"/proc/{pid}/exe")
    try:
        return path if _id_of(os.stat(path)) == file_id else None
    except OSError:
        return None


def _hash(pid: int, file_id: FileId) -> str:
    """Of the file that the process runs, whatever has its name by now."""
    with open(f"/proc/{pid}/exe", "rb") as file:
        status = os.fstat(file.fileno())
        if _id_of(status) != file_id:
            raise Doubt(f"pid {pid} runs another program by now")
        if status.st_size > MAX_HASHED_BYTES:
            raise Doubt(f"the executable of pid {pid} is too large to be hashed")
        # Nobody can write to a file that runs, and whoever wrote to it before has changed these.
        version = (*file_id, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        digest = _hashes.get(version)
        if digest is None:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            if len(_hashes) >= _MAX_HASHES:
                _hashes.clear()
            _hashes[version] = digest
    return digest
