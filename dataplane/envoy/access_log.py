"""[edge] The access log's file: made before Envoy needs it, and kept from filling the disk.

Envoy holds it open and writes once a second. A file that has grown large is renamed, and Envoy told to open a new one;
until it has, it goes on in the old one, so no line is lost.
"""

import logging
import os
import stat
from pathlib import Path

import trio

from dataplane.envoy.admin import Admin
from schemas.errors import Unavailable

log = logging.getLogger("mesh.envoy")

# Bytes. Some 100,000 requests; with the one before it, the disk holds twice as much.
MAX_BYTES = 64 * 1024 * 1024
# Seconds between two looks: at 20,000 requests/s a file is some 130 MB above its bound by then.
LOOK_S = 10.0


def make(path: Path) -> None:
    """So that Envoy can open it: it refuses a listener whose log it can't. Raises OSError."""
    os.close(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600))


def older(path: Path) -> Path:
    return path.with_name(f"{path.name}.1")


async def keep_small(path: Path, admin: Admin, *, max_bytes: int = MAX_BYTES, look_seconds: float = LOOK_S) -> None:
    """For ever."""
    while True:
        await trio.sleep(look_seconds)
        try:
            if await trio.to_thread.run_sync(_move_away, path, max_bytes):
                await admin.post("/reopen_logs")
        except (OSError, Unavailable) as error:
            log.warning("the access log %s could not be begun anew: %s", path, error)


def _move_away(path: Path, max_bytes: int) -> bool:
    """Whether Envoy should open a new one: also where it is gone already, and an earlier attempt got no answer."""
    try:
        info = path.stat()
    except FileNotFoundError:
        return True
    if not stat.S_ISREG(info.st_mode) or info.st_size <= max_bytes:
        return False
    path.replace(older(path))
    return True
