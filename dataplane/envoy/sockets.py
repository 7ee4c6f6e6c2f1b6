"""[edge] Ends single connections of a running Envoy, which has no way of its own to do that.

Its sockets are borrowed by pidfd_getfd(2) and shut down: to Envoy it looks as if the peer had closed. The kernel lets
us where it would let us trace Envoy: the same user, and by Yama's leave (see `let_successors_reach_us`).
"""

import ctypes
import errno
import os
import socket
from collections.abc import Callable, Collection
from pathlib import Path

from dataplane.compile import passthrough
from dataplane.compile.open_streams import Connection, address_of
from schemas.errors import PermissionDenied

# The same on every architecture; Python has no wrapper for it. Linux 5.6.
_SYS_PIDFD_GETFD = 438
# prctl(2).
_PR_SET_PTRACER = 0x59616D61
_PR_SET_PTRACER_ANY = ctypes.c_ulong(-1)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.syscall.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_int, ctypes.c_uint]
_libc.prctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong]


def let_successors_reach_us() -> None:
    """Called in the process that becomes Envoy. Where `kernel.yama.ptrace_scope` is 1 only ancestors may reach it
    else, and an agent that took it up is none. Other users stay out. Does nothing where there is no Yama."""
    _libc.prctl(_PR_SET_PTRACER, _PR_SET_PTRACER_ANY, 0, 0, 0)


def check(pidfd: int, pid: int) -> bool:
    """False: the process has ended. Raises PermissionDenied where `shut` would, for the reasons that concern all its
    connections."""
    try:
        os.scandir(_descriptors(pid)).close()
    except FileNotFoundError:
        return False
    except PermissionError as error:
        if _has_ended(pid):
            return False
        raise _not_to_look(error) from error
    try:
        os.close(_borrow(pidfd, 0))  # any: the kernel asks who we are before it looks what there is
    except ProcessLookupError:
        return False
    except OSError as error:
        if error.errno != errno.EBADF:
            raise _not_to_borrow(error) from error
    return True


def shut(pidfd: int, pid: int, connections: Collection[Connection]) -> int:
    """Shuts down those of `connections` that the process has; how many. The others have ended by themselves.

    Raises PermissionDenied where the kernel does not let us.
    """
    return _shut_where(pidfd, pid, lambda one: _connection(one) in connections)


def shut_outside(pidfd: int, pid: int) -> int:
    """As `shut`, of all connections to the world outside of the mesh."""
    return _shut_where(pidfd, pid, _leads_outside)


def _shut_where(pidfd: int, pid: int, chosen: Callable[[socket.socket], bool]) -> int:
    count = 0
    for number in _sockets(pid):
        try:
            borrowed = _borrow(pidfd, number)
        except ProcessLookupError:
            return count  # its connections have ended with it
        except OSError as error:
            if error.errno == errno.EBADF:
                continue  # closed meanwhile
            raise _not_to_borrow(error) from error
        with socket.socket(fileno=borrowed) as one:
            if chosen(one):
                count += _shut(one)
    return count


def _sockets(pid: int) -> list[int]:
    """Descriptors that are sockets now; by the pidfd they are then looked at in no other process."""
    found = []
    try:
        for entry in _descriptors(pid).iterdir():
            try:
                if os.readlink(entry).startswith("socket:"):
                    found.append(int(entry.name))
            except FileNotFoundError:
                continue
    except FileNotFoundError:
        return []
    except PermissionError as error:
        if _has_ended(pid):
            return []
        raise _not_to_look(error) from error
    return found


def _has_ended(pid: int) -> bool:
    """Until it is reaped its descriptors in /proc are root's, whoever it was (proc(5), /proc/pid/stat: the state comes
    after the name, which may hold anything)."""
    try:
        return _process(pid).joinpath("stat").read_bytes().rpartition(b") ")[2][:1] in (b"Z", b"X")
    except (FileNotFoundError, ProcessLookupError):
        return True


def _descriptors(pid: int) -> Path:
    return _process(pid) / "fd"


def _process(pid: int) -> Path:
    return Path(f"/proc/{pid}")


def _not_to_look(error: OSError) -> PermissionDenied:
    return PermissionDenied(f"the agent may not look into its Envoy: {error}")


def _not_to_borrow(error: OSError) -> PermissionDenied:
    return PermissionDenied(
        f"the kernel does not let the agent close connections of its Envoy: {error.strerror}; allow "
        "pidfd_getfd to the unit (SystemCallFilter=), and set kernel.yama.ptrace_scope to 0 or 1"
    )


def _borrow(pidfd: int, number: int) -> int:
    result = int(_libc.syscall(_SYS_PIDFD_GETFD, pidfd, number, 0))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _connection(one: socket.socket) -> Connection | None:
    if one.family not in (socket.AF_INET, socket.AF_INET6):
        return None
    try:
        local, remote = one.getsockname(), one.getpeername()
    except OSError:
        return None  # it listens, or is connected no more
    return Connection(address_of(local[0], local[1]), address_of(remote[0], remote[1]))


def _leads_outside(one: socket.socket) -> bool:
    level, name, value = passthrough.MARK
    return one.family in (socket.AF_INET, socket.AF_INET6) and one.getsockopt(level, name) == value


def _shut(one: socket.socket) -> bool:
    try:
        one.shutdown(socket.SHUT_RDWR)
    except OSError:
        return False  # it has ended meanwhile
    return True
