"""[edge] Reads the files that objects name, and no other file of the host.

Whoever may write objects names the files. So they are read below one directory that the host's settings name, whatever
links are in between: what counts is the file that was opened, not the path that was asked for.
"""

import os
import stat
from pathlib import Path

from dataplane.certificates.check import BadCertificate

# Bytes. A chain of ten certificates with RSA keys is 20 KiB.
MAX_BYTES = 256 * 1024

Signature = tuple[int, ...]
"""Of a file: what changes when it is replaced or written."""


def signature(directory: Path, name: str) -> Signature | None:
    """None where there is none."""
    try:
        found = os.stat(directory / name)
    except OSError:
        return None
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def read(directory: Path, name: str) -> bytes:
    """Raises BadCertificate that names the path, never what is in the file."""
    path = directory / name
    try:
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a path"
        raise BadCertificate(f"{path} can't be read: {reason}") from error
    try:
        opened = Path(os.readlink(f"/proc/self/fd/{number}"))  # as the kernel knows it, after all links
        if not opened.is_relative_to(directory.resolve()):
            raise BadCertificate(f"{path} leads out of {directory}: it is not read")
        if not stat.S_ISREG(os.fstat(number).st_mode):
            raise BadCertificate(f"{path} is no regular file")
        with open(number, "rb", closefd=False) as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise BadCertificate(f"{path} can't be read: {error.strerror}") from error
    finally:
        os.close(number)
    if len(data) > MAX_BYTES:
        raise BadCertificate(f"{path} is above {MAX_BYTES} bytes")
    return data
