"""No test may leave a process behind: find the descendants of this one, name them, end them by id."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
_GRACE_SECONDS = 2.0  # between SIGTERM and SIGKILL


@dataclass(frozen=True)
class Leftover:
    pid: int
    command: str

    def __str__(self) -> str:
        return f"pid {self.pid}: {self.command}"


def adopt_orphans() -> None:
    """Make this process the parent of descendants whose own parent has ended, so that they can be found."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def running_descendants() -> list[Leftover]:
    """All living processes below this one; those that ended and were not waited for don't count."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                # pid (comm) state ppid …; comm may hold spaces and parentheses
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                if state not in "ZX":
                    parents.setdefault(int(parent), []).append(int(entry.name))
    found: list[int] = []
    level = parents.get(os.getpid(), [])
    while level:
        found += level
        level = [child for pid in level for child in parents.get(pid, [])]
    return [Leftover(pid, _command(pid)) for pid in found]


def end(leftovers: list[Leftover]) -> None:
    """SIGTERM, then SIGKILL for who is still there."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for leftover in leftovers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(leftover.pid, number)
        deadline = time.monotonic() + _GRACE_SECONDS
        while time.monotonic() < deadline:
            alive = {one.pid for one in running_descendants()}
            for leftover in leftovers:
                if leftover.pid not in alive:
                    with contextlib.suppress(ChildProcessError):  # a grandchild: its own parent waits for it
                        os.waitpid(leftover.pid, os.WNOHANG)
            leftovers = [one for one in leftovers if one.pid in alive]
            if not leftovers:
                return
            time.sleep(0.02)


def _command(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return "(ended meanwhile)"
    return " ".join(word.decode(errors="replace") for word in words if word)[:200]
