"""[edge] The Unix socket for root: who may enter its directory is an admin of the mesh, so the directory is checked."""

import os
import socket
import stat
from pathlib import Path

from schemas.errors import PermissionDenied, Unavailable


def prepare_socket(path: Path) -> None:
    """Make its directory where missing, check it, and remove a socket that nobody listens on any more.

    Raises PermissionDenied where others than its owner may enter the directory, Unavailable where a replica listens.
    """
    directory = path.parent
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = directory.stat()
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        raise PermissionDenied(
            f"{directory} may be entered by others than its owner (mode {mode:04o}), "
            f"and who enters it administers the mesh: chmod 0700 {directory}"
        )
    if status.st_uid not in (0, os.geteuid()):
        raise PermissionDenied(f"{directory} belongs to user {status.st_uid}: it must be this process's own, or root's")
    if not path.is_socket():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)  # left by a replica that was killed
            return
    raise Unavailable(f"a replica already listens on {path}")
