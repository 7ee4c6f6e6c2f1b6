"""What the ways of fetching etcd share."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


class UnavailableError(Exception):
    """One place has no usable etcd; the text says why. The search goes on with the next."""


@dataclass(frozen=True)
class Fetched:
    """A directory with `etcd` and perhaps `etcdctl`, and the name under which the cache should keep it."""

    directory: Path
    name: str


def run(what: str, argv: Sequence[str], environ: Mapping[str, str], seconds: float, cwd: Path) -> str:
    """Standard output of `argv`. Raises UnavailableError with the program's own last words when it fails."""
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=seconds, env=dict(environ), cwd=cwd, check=False
        )
    except subprocess.TimeoutExpired:
        raise UnavailableError(f"{what} gave no result in {seconds:.0f} s") from None
    except OSError as why:
        raise UnavailableError(f"{what} cannot be run: {why}") from None
    if done.returncode != 0:
        lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
        errors = [line for line in lines if line.startswith(("E:", "W:", "ERROR"))] or lines
        raise UnavailableError(f"{what} failed: {' | '.join(errors[-3:])[:400]}")
    return done.stdout
