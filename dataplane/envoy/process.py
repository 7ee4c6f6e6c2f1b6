"""[edge] Keeps one Envoy running, across crashes of Envoy and across restarts of this agent.

    run():  lock ▸ judge(pid file, /proc) ─ Adopt ──▶ watch its pidfd ◀──────────┐
                                          ├ Replace ▸ end it ─┐                  │
                                          └ Start ────────────┴▶ start ▸ pid file┘
            it ended by itself ▸ backoff ▸ start
            cancelled ▸ Envoy stays and serves; the next agent adopts it
    stop(): drain ▸ SIGTERM ▸ SIGKILL

Envoy runs in a session of its own. Under systemd the unit needs `KillMode=process` for it to outlive the
agent, and `LimitNOFILE=` for its connections: two descriptors each.
"""

import contextlib
import fcntl
import logging
import os
import signal
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import trio

from dataplane.compile.open_streams import Connection
from dataplane.envoy import bootstrap, child
from dataplane.envoy.admin import Admin
from dataplane.envoy.child import Child
from dataplane.envoy.lifecycle import (
    Adopt,
    Crashes,
    Drain,
    DrainPlan,
    PidRecord,
    Post,
    Replace,
    Terminate,
    Wanted,
    judge,
    next_step,
)
from schemas.errors import Conflict, Unavailable

log = logging.getLogger("mesh.envoy")

_CONFIG_OPTION = "--config-path"

_FIRST_POLL_SECONDS = 0.01  # Envoy's admin is there about 50 ms after the start
_MAX_POLL_SECONDS = 0.2
LOG_FLUSH_MS = 1000  # Envoy's ten seconds are long for somebody who looks at what happens now


@dataclass(frozen=True, slots=True)
class EnvoySettings:
    """bootstrap: rendered (`dataplane.envoy.bootstrap.render`); admin_socket: the one that it names.

    runtime_directory: exists, is this instance's alone, on a file system that a reboot empties (``/run``).
    """

    executable: str
    runtime_directory: Path
    bootstrap: bytes
    admin_socket: str
    concurrency: int = 1
    drain_seconds: int = 10
    """How long connections of a replaced listener may go on (Envoy's --drain-time-s)."""
    log_level: str = "warning"


@dataclass(frozen=True, slots=True)
class Started:
    pid: int


@dataclass(frozen=True, slots=True)
class Adopted:
    pid: int


@dataclass(frozen=True, slots=True)
class Crashed:
    """`exit_code`: -N for signal N, None where it can't be known; restarted after `delay` seconds."""

    pid: int
    exit_code: int | None
    in_a_row: int
    delay: float


Event = Started | Adopted | Crashed


class EnvoyProcess:
    """`on_event` is told of each start, adoption and crash; it must not raise. `environ`: ours, PATH is passed on."""

    def __init__(
        self,
        settings: EnvoySettings,
        *,
        environ: Mapping[str, str],
        on_event: Callable[[Event], None] = lambda _: None,
    ) -> None:
        self._settings = settings
        self._environ = {key: environ[key] for key in ("PATH", "TZ") if key in environ}
        self._on_event = on_event
        self._config_path = settings.runtime_directory / "envoy.json"
        self._pid_path = settings.runtime_directory / "envoy.pid"
        self._wanted = Wanted(bootstrap.digest(settings.bootstrap), settings.executable, str(self._config_path))
        self._child: Child | None = None
        self._stop = trio.Event()
        self.admin = Admin(settings.admin_socket)

    @property
    def pid(self) -> int | None:
        """Of the running Envoy; None between a crash and the restart, and after `stop`."""
        return None if self._child is None else self._child.pid

    async def set_log_levels(self, general: str, of_loggers: Mapping[str, str]) -> frozenset[str]:
        """As of `Admin`; nothing of it outlives this Envoy."""
        return await self.admin.set_log_levels(general, of_loggers)

    async def run(self, task_status: trio.TaskStatus[bool] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled, which leaves Envoy running, or until `stop` has ended it.

        ``started`` tells whether a running Envoy was adopted. Raises EnvoyMissing, and Conflict when another agent
        runs on the same runtime directory.
        """
        with self._locked():
            try:
                adopted = await self._take_up()
                task_status.started(adopted)
                await self._supervise()
            finally:
                if not self._stop.is_set() and self._child is not None:
                    self._child.close()
                    self._child = None

    async def _supervise(self) -> None:
        crashes = Crashes()
        while self._child is not None:
            began = trio.current_time()
            pid = self._child.pid
            code = await self._child.wait()
            if self._stop.is_set():
                return
            self._child.close()
            self._child = None
            crashes = crashes.after(trio.current_time() - began)
            log.error("Envoy (pid %d) %s; starting it again in %.1f s", pid, _ending(code), crashes.delay)
            self._on_event(Crashed(pid, code, crashes.count, crashes.delay))
            with trio.move_on_after(crashes.delay):
                await self._stop.wait()
            if not self._stop.is_set():
                self._start()

    async def ready(self) -> None:
        """Returns once Envoy has its first configuration and serves. Put a deadline around it."""
        pause = _FIRST_POLL_SECONDS
        while True:
            with contextlib.suppress(Unavailable):  # it is starting, or starting again
                if await self.admin.ready():
                    return
            await trio.sleep(pause)
            pause = min(2 * pause, _MAX_POLL_SECONDS)

    # -- start and adopt

    async def _take_up(self) -> bool:
        record = child.read_record(self._pid_path)
        found = None if record is None else Child.find(record.pid)
        verdict = judge(record, None if found is None else found[1], self._wanted)
        if found is not None and isinstance(verdict, Adopt):
            self._child = found[0]
            log.info("took up the running Envoy, pid %d", found[0].pid)
            self._on_event(Adopted(found[0].pid))
            return True
        log.info("starting Envoy: %s", verdict.reason if not isinstance(verdict, Adopt) else "it has just ended")
        if found is not None:
            if isinstance(verdict, Replace):
                await self._end(found[0], DrainPlan())
            found[0].close()
        await self._end_unrecorded()
        self._start()
        return False

    async def _end_unrecorded(self) -> None:
        """End what was started on our bootstrap by an agent that was killed before it could write that down."""
        for pid in list(child.running_with(_CONFIG_OPTION, str(self._config_path))):
            found = Child.find(pid)
            if found is None:
                continue
            if str(self._config_path) in found[1].arguments:  # still the one whose command line was read
                log.warning("ending an Envoy, pid %d, that no pid file knows", pid)
                await self._end(found[0], DrainPlan(settle=0, bound=0))
            found[0].close()

    def _start(self) -> None:
        settings = self._settings
        self._config_path.write_bytes(settings.bootstrap)
        started = Child.start(
            [
                settings.executable,
                *(_CONFIG_OPTION, str(self._config_path)),
                "--disable-hot-restart",  # it would need a base id that no other Envoy of the host has
                *("--concurrency", str(settings.concurrency)),
                *("--drain-time-s", str(settings.drain_seconds)),
                *("--drain-strategy", "immediate"),  # each response asks for a new connection, from the first on
                *("--log-level", settings.log_level),
                *("--file-flush-interval-msec", str(LOG_FLUSH_MS)),
            ],
            self._environ,
        )
        self._child = started
        seen = child.look(started.pid)
        if seen is not None:  # None: it has ended already, which `wait` will tell
            child.write_record(
                self._pid_path,
                PidRecord(started.pid, seen.start_ticks, seen.boot_id, self._wanted.bootstrap, settings.executable),
            )
        log.info("started Envoy, pid %d", started.pid)
        self._on_event(Started(started.pid))

    def start_anew(self) -> None:
        """End the running Envoy at once, with every connection that it has; another starts without configuration."""
        if self._child is not None:
            self._child.signal(signal.SIGKILL)

    @property
    def drain_seconds(self) -> int:
        return self._settings.drain_seconds

    def check_shut(self) -> bool:
        """Whether there is an Envoy whose connections could be shut. Raises PermissionDenied where `shut` would, of
        whatever connection. Two system calls."""
        return self._child is not None and self._child.check_shut()

    async def shut(self, connections: Collection[Connection]) -> int:
        """Ends those connections of the running Envoy; how many it had. Raises PermissionDenied."""
        if self._child is None:
            return 0  # it has ended, and every connection with it
        return await self._child.shut(connections)

    async def shut_outside(self) -> int:
        """Ends all connections of the running Envoy to the world outside of the mesh; how many it had. Raises
        PermissionDenied."""
        return 0 if self._child is None else await self._child.shut_outside()

    # -- stop

    async def stop(self, plan: DrainPlan | None = None) -> None:
        """Drain, then end Envoy; `run` returns. Bounded by the plan. When cancelled it is told to end at once."""
        self._stop.set()
        ending = self._child
        if ending is None:
            return
        try:
            await self._end(ending, plan or DrainPlan())
        finally:
            self._child = None
            ending.close()
        self._tidy()

    def _tidy(self) -> None:
        for path in (self._pid_path, Path(self._settings.admin_socket)):
            path.unlink(missing_ok=True)

    async def _end(self, ending: Child, plan: DrainPlan) -> None:
        try:
            with trio.CancelScope() as draining:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_cancel_after, ending, draining)
                    log.info("ending Envoy, pid %d: %s", ending.pid, await self._drain(plan))
                    draining.cancel()
            ending.signal(signal.SIGTERM)
            with trio.move_on_after(plan.terminate) as patience:
                await ending.wait()
            if patience.cancelled_caught:
                log.warning("Envoy, pid %d, did not end on SIGTERM in %g s: killed", ending.pid, plan.terminate)
                ending.signal(signal.SIGKILL)
                await ending.wait()
        except trio.Cancelled:
            ending.signal(signal.SIGTERM)
            raise

    async def _drain(self, plan: DrainPlan) -> str:
        """Until nothing is in flight or the plan's bound is over; why."""
        began = trio.current_time()
        drain = Drain()
        while True:
            step = next_step(drain, plan)
            if isinstance(step, Terminate):
                return step.reason
            left = max(0.05, plan.bound - (trio.current_time() - began))
            try:
                if isinstance(step, Post):
                    drain = drain.asked()
                    await self.admin.post(step.target, timeout=left)
                    continue
                await trio.sleep(step.seconds)
                activity = await self.admin.activity()
            except Unavailable as error:
                log.warning("draining: %s", error)
                activity = None
            drain = drain.saw(activity, trio.current_time() - began)

    # -- one agent a runtime directory

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        path = self._settings.runtime_directory / "agent.lock"
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise Unavailable(f"the runtime directory can't be used: {error}") from error
        try:
            _lock(descriptor, self._settings.runtime_directory)
            yield
        finally:
            os.close(descriptor)


async def _cancel_after(ending: Child, scope: trio.CancelScope) -> None:
    """An Envoy that has ended needs no more draining."""
    await ending.wait()
    scope.cancel()


def _lock(descriptor: int, directory: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Conflict(f"another agent runs on {directory}: give each instance a runtimeDir of its own") from None


def _ending(code: int | None) -> str:
    if code is None:
        return "ended"
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"ended with exit code {code}, see its last log lines"
