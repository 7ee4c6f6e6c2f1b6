"""[edge] A request's lines in the access log, by its id."""

from dataclasses import dataclass
from pathlib import Path

from dataplane.envoy.access_log import older
from schemas.errors import NotFound
from schemas.questions import MAX_ENTRIES, MAX_ENTRY_BYTES

# Bytes that are read at a time: a log of 64 MiB is looked through in a tenth of a second, in steps of a millisecond.
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Found:
    """`lines`: the newest ones of it, oldest first. files: which there were to look through, with their sizes."""

    lines: tuple[str, ...]
    files: tuple[tuple[Path, int], ...]


def find(path: Path, request_id: str) -> Found:
    """In the log at `path` and the one before it. To be called in a thread. Raises NotFound where there is no such file
    to read again, and OSError."""
    needle = f'"request_id":"{request_id}"'.encode()
    found: list[bytes] = []
    files: list[tuple[Path, int]] = []
    for one in (older(path), path):
        if one.is_file():
            files.append((one, one.stat().st_size))
            found += _lines(one, needle)
    if not files:
        raise NotFound(f"the access log {path} is no file that can be read again: look where it is written to")
    kept = [line for line in found if len(line) <= MAX_ENTRY_BYTES][-MAX_ENTRIES:]
    return Found(tuple(line.decode("utf-8", "replace") for line in kept), tuple(files))


def _lines(path: Path, needle: bytes) -> list[bytes]:
    found: list[bytes] = []
    rest = b""
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            whole, newline, tail = chunk.rpartition(b"\n")
            if not newline:  # a line longer than all that Envoy writes
                rest = (rest + chunk)[-_CHUNK:]
                continue
            found += _with(rest + whole, needle)
            rest = tail
    return found


def _with(text: bytes, needle: bytes) -> list[bytes]:
    """The lines of `text` in which it is."""
    found: list[bytes] = []
    at = text.find(needle)
    while at >= 0:
        start, end = text.rfind(b"\n", 0, at) + 1, text.find(b"\n", at)
        found.append(text[start : end if end >= 0 else len(text)])
        at = text.find(needle, end) if end >= 0 else -1
    return found
