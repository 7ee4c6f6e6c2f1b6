"""[edge] Files that only their owner may read, written whole or not at all."""

import os
import secrets
from pathlib import Path

from schemas.errors import InvalidInput, Problem


def check_place(out: Path, *, force: bool) -> None:
    """Before something is made that could not be kept. Raises InvalidInput."""
    if out.exists() and not force:
        raise InvalidInput(Problem(str(out), "exists already", remedy="name another file, or give --force"))
    if not os.access(out.parent, os.W_OK | os.X_OK):
        raise InvalidInput(
            Problem(str(out.parent), "no directory that can be written to", remedy="make it, or name another file")
        )


def write(out: Path, data: bytes) -> None:
    """Never readable by others, not even for a moment. Raises InvalidInput where it can't be written."""
    beside = out.with_name(f".{out.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(data)
            opened.flush()
            os.fsync(opened.fileno())
        os.replace(beside, out)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise InvalidInput(Problem(str(out), f"can't be written: {error.strerror}")) from error
