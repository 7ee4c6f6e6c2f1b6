"""Where the SPIFFE client library of PyPI is: fetched once, into a directory of its own."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path

WANTED = Path(__file__).with_name("spiffe-client.txt")
_DIRECTORY = Path(__file__).parents[2] / ".cache" / "spiffe-client"
_STAMP = "wanted.txt"  # what is installed there


@cache
def client_environment() -> Mapping[str, str]:
    """The environment of a process whose `spiffe` is the client's. Raises CalledProcessError when it can't be had."""
    _DIRECTORY.mkdir(parents=True, exist_ok=True)
    stamp = _DIRECTORY / _STAMP
    with open(_DIRECTORY / "lock", "w") as lock:  # test runs of several processes
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text() != WANTED.read_text():
            options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--upgrade"]
            command = [sys.executable, "-m", "pip", "install", *options, "--target", str(_DIRECTORY), "-r", str(WANTED)]
            subprocess.run(command, check=True)
            stamp.write_text(WANTED.read_text())
    return {name: value for name, value in os.environ.items() if name != "SPIFFE_ENDPOINT_SOCKET"} | {
        "PYTHONPATH": str(_DIRECTORY),
        "PYTHONSAFEPATH": "1",  # not the directory of the script, nor that of the tests
    }
