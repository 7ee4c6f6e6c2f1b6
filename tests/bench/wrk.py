"""The load generator `wrk`: found or fetched without root, run, and its own counters read.

Order: ``PATH`` ▸ ``.cache/wrk`` ▸ the archive of the Debian that runs here, by the same private apt as etcd.
"""

import json
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import trio

from deploy.etcd.fetch import UnavailableError
from deploy.etcd.fetch_apt import fetch_packages

CACHE = Path(__file__).parents[2] / ".cache" / "wrk"
# OpenSSL and libc it shares with what every Debian has; LuaJIT is the one library that a small system lacks.
PACKAGES = ("wrk", "libluajit-5.1-2")
PROBE_S = 20.0  # a cold disk; it answers in milliseconds
OVERTIME_S = 30.0  # a run that has not ended so long after its time never will

# wrk's own counters as one line: its text for people rounds, and leaves out what is 0.
SCRIPT = """
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('COUNTED {"requests": %d, "microseconds": %d, "socket": %d, "status": %d, "p50": %d}\\n',
    summary.requests, summary.duration, e.connect + e.read + e.write + e.timeout, e.status, latency:percentile(50)))
end
"""


class WrkNotFoundError(Exception):
    """No usable wrk; the text says where it was looked for and what to do."""


class LoadFailed(Exception):
    """A request failed, so that what was counted says nothing."""


@dataclass(frozen=True, slots=True)
class Wrk:
    path: Path
    libraries: Path | None = None
    """Where its LuaJIT is, when it is not the system's."""

    @property
    def environ(self) -> dict[str, str]:
        return {**os.environ, **({"LD_LIBRARY_PATH": str(self.libraries)} if self.libraries else {})}

    def check(self) -> None:
        """Raises UnavailableError unless it starts. ``--version`` ends with 1 by wrk's own choice."""
        try:
            said = subprocess.run(
                [str(self.path), "--version"],
                capture_output=True, text=True, timeout=PROBE_S, env=self.environ, check=False,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as why:
            raise UnavailableError(f"{self.path} does not run: {why}") from None
        if not said.stdout.startswith("wrk "):
            raise UnavailableError(f"{self.path} does not run: {(said.stderr or said.stdout).strip()[:200]}")


@dataclass(frozen=True, slots=True)
class Counted:
    requests: int
    seconds: float
    p50_ms: float

    @property
    def per_second(self) -> float:
        return self.requests / self.seconds


def find_wrk(
    report: Callable[[str], None],
    environ: Mapping[str, str] | None = None,
    cache: Path = CACHE,
    suite: str | None = None,
) -> Wrk:
    """The first that runs. `suite` is Debian's code name, by default this system's own.

    Raises WrkNotFoundError.
    """
    environ = dict(os.environ if environ is None else environ)
    reasons = []
    on_path = shutil.which("wrk", path=environ.get("PATH", os.defpath))
    candidates = [Wrk(Path(on_path))] if on_path else []
    candidates += [_cached(directory) for directory in sorted(cache.glob("[!.]*"))]
    for candidate in candidates:
        try:
            candidate.check()
        except UnavailableError as why:
            reasons.append(str(why))
        else:
            return candidate
    try:
        return _fetch(cache, suite or _own_suite(), environ, report)
    except (UnavailableError, OSError) as why:
        reasons.append(f"apt: {why}")
    raise WrkNotFoundError(
        f"no wrk on PATH, in {cache}, or from Debian's archive: {'; '.join(reasons)}. Install the package `wrk`, or "
        "build it from https://github.com/wg/wrk and put it on PATH."
    )


def _cached(directory: Path) -> Wrk:
    return Wrk(directory / "wrk", directory)


def _fetch(cache: Path, suite: str, environ: Mapping[str, str], report: Callable[[str], None]) -> Wrk:
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".incomplete-", dir=cache) as work:  # one file system: published by rename
        unpacked = fetch_packages(Path(work), suite, PACKAGES, environ, report)
        made = Path(work) / "made"
        made.mkdir()
        (unpacked.root / "usr/bin/wrk").rename(made / "wrk")
        for library in unpacked.root.glob("usr/lib/*/libluajit-*.so*"):
            library.rename(made / library.name)
        _cached(made).check()  # nothing that does not run enters the cache
        final = cache / unpacked.name
        shutil.rmtree(final, ignore_errors=True)  # it did not run, or it would have been taken
        made.rename(final)
    return _cached(final)


def _own_suite() -> str:
    try:
        system = platform.freedesktop_os_release()
    except OSError as why:
        raise UnavailableError(f"this system does not say what it is: {why}") from None
    suite = system.get("VERSION_CODENAME", "")
    if system.get("ID") != "debian" or not suite:
        raise UnavailableError(f"this system is {system.get('PRETTY_NAME', 'unknown')}, not a Debian release")
    return suite


async def load(
    wrk: Wrk, url: str, *, seconds: int, host: str | None = None, connections: int = 32, core: int | None = None
) -> Counted:
    """Keep-alive GETs from one thread, `connections` at once. `host` is the Host header, `core` where wrk runs.

    Raises LoadFailed when any request failed, by a broken connection, a timeout or a status of 400 or more.
    """
    command = [str(wrk.path), "-t1", f"-c{connections}", f"-d{seconds}s", "-s", "/dev/stdin", url]
    if host is not None:
        command[1:1] = ["-H", f"Host: {host}"]
    if core is not None:
        command = ["taskset", "-c", str(core), *command]
    with trio.fail_after(seconds + OVERTIME_S):
        done = await trio.run_process(
            command, stdin=SCRIPT.encode(), capture_stdout=True, capture_stderr=True, check=False, env=wrk.environ
        )
    return read(done.stdout.decode() + done.stderr.decode())


def read(said: str) -> Counted:
    """What wrk said, with SCRIPT. Raises LoadFailed."""
    lines = [line.removeprefix("COUNTED ") for line in said.splitlines() if line.startswith("COUNTED ")]
    if not lines:
        raise LoadFailed(f"wrk counted nothing: {said.strip()[-400:]}")
    counted = json.loads(lines[-1])
    if counted["socket"] or counted["status"] or not counted["requests"]:
        raise LoadFailed(
            f"{counted['requests']} requests, {counted['status']} with a status of 400 or more, "
            f"{counted['socket']} socket errors"
        )
    return Counted(counted["requests"], counted["microseconds"] / 1e6, counted["p50"] / 1e3)
