"""What to do with the Envoy process: adopt or start, how soon to restart, how to drain. Pure decisions."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

# -- adopt, or start


@dataclass(frozen=True, slots=True)
class PidRecord:
    """What the pid file says of the Envoy that was started: enough to know it again beyond doubt."""

    pid: int
    start_ticks: int
    """Field 22 of /proc/<pid>/stat: clock ticks from boot to the start of the process (proc_pid_stat(5))."""
    boot_id: str
    """/proc/sys/kernel/random/boot_id: ticks and pids begin anew with each boot."""
    bootstrap: str
    """Digest of the bootstrap that it was started with."""
    executable: str


@dataclass(frozen=True, slots=True)
class Seen:
    """A living process as /proc shows it."""

    start_ticks: int
    boot_id: str
    executable: str
    """Target of /proc/<pid>/exe; ends in `` (deleted)`` once the file was replaced."""
    arguments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Wanted:
    bootstrap: str
    executable: str
    config_path: str


@dataclass(frozen=True, slots=True)
class Adopt:
    """Go on with the running one."""


@dataclass(frozen=True, slots=True)
class Replace:
    """It is ours, but not what is wanted now: end it, then start another."""

    reason: str


@dataclass(frozen=True, slots=True)
class Start:
    """There is none of ours; whoever has that pid now is a stranger and is left alone."""

    reason: str


Verdict = Adopt | Replace | Start


def judge(record: PidRecord | None, seen: Seen | None, wanted: Wanted) -> Verdict:
    if record is None:
        return Start("none was started before")
    if seen is None:
        return Start("the one that was started before has ended")
    if (seen.boot_id, seen.start_ticks) != (record.boot_id, record.start_ticks):
        return Start(f"pid {record.pid} is another process by now")
    if wanted.config_path not in seen.arguments:
        return Start(f"pid {record.pid} does not run our bootstrap")
    if seen.executable != wanted.executable:
        return Replace("the binary is another one by now")
    if record.bootstrap != wanted.bootstrap:
        return Replace("the bootstrap has changed")
    return Adopt()


# -- restart after a crash

FIRST_BACKOFF_SECONDS = 0.1
MAX_BACKOFF_SECONDS = 10.0  # an Envoy that can't start: six log lines a minute, and back within ten seconds
STABLE_SECONDS = 60.0  # one that ran for so long has not crashed because of how it starts


@dataclass(frozen=True, slots=True)
class Crashes:
    """How often in a row Envoy ended by itself before it had run for STABLE_SECONDS."""

    count: int = 0

    def after(self, ran_for: float) -> "Crashes":
        return Crashes(1 if ran_for >= STABLE_SECONDS else self.count + 1)

    @property
    def delay(self) -> float:
        """Seconds until the restart: the first at once, then doubling to the maximum."""
        if self.count <= 1:
            return 0.0
        return float(min(MAX_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2.0 ** min(self.count - 2, 16)))


# -- drain


@dataclass(frozen=True, slots=True)
class Activity:
    """HTTP requests that are being answered, and open connections that carry something else (TCP)."""

    requests: int
    tcp_connections: int

    @property
    def idle(self) -> bool:
        return self.requests == 0 and self.tcp_connections == 0


def parse_activity(stats: str) -> Activity:
    """From the lines ``name: value`` of ``/stats``. HTTP connections without a request don't count: they may wait for
    ever. The admin interface and the per-worker doubles are left out."""
    requests = http_connections = connections = 0
    for line in stats.splitlines():
        name, _, value = line.partition(": ")
        if not value.isdecimal() or ".admin." in name or ".worker_" in name:
            continue
        if name.startswith("http.") and name.endswith(".downstream_rq_active"):
            requests += int(value)
        elif name.startswith("http.") and name.endswith(".downstream_cx_active"):
            http_connections += int(value)
        elif name.startswith("listener.") and name.endswith(".downstream_cx_active"):
            connections += int(value)
    return Activity(requests, max(0, connections - http_connections))


@dataclass(frozen=True, slots=True)
class DrainPlan:
    """Bounds in seconds. `settle`: how long callers may still send after they could know that we leave."""

    settle: float = 0.5
    bound: float = 20.0
    terminate: float = 5.0


@dataclass(frozen=True, slots=True)
class Post:
    """Ask Envoy's admin."""

    target: str


@dataclass(frozen=True, slots=True)
class Watch:
    """Look at the activity again after `seconds`."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Terminate:
    """SIGTERM now, SIGKILL after the plan's bound."""

    reason: str


Step = Post | Watch | Terminate

# Health checks of callers fail; responses carry `connection: close` or GOAWAY; listeners take new connections on.
_POSTS = ("/healthcheck/fail", "/drain_listeners?graceful&skip_exit")
_LOOK_AGAIN_SECONDS = 0.05  # a look costs Envoy less than a millisecond


@dataclass(frozen=True, slots=True)
class Drain:
    """Where a drain stands. `activity` is what was seen last; None when Envoy did not answer."""

    posted: int = 0
    elapsed: float = 0.0
    activity: Activity | None = None

    def asked(self) -> "Drain":
        return replace(self, posted=self.posted + 1)

    def saw(self, activity: Activity | None, elapsed: float) -> "Drain":
        return replace(self, activity=activity, elapsed=elapsed)


def next_step(drain: Drain, plan: DrainPlan, posts: Sequence[str] = _POSTS) -> Step:
    if drain.posted < len(posts):
        return Post(posts[drain.posted])
    if drain.elapsed >= plan.bound:
        left = "unknown" if drain.activity is None else f"{drain.activity.requests} requests"
        return Terminate(f"the drain bound of {plan.bound:g} s is over ({left} left)")
    if drain.elapsed >= plan.settle and drain.activity is not None and drain.activity.idle:
        return Terminate("nothing is in flight any more")
    return Watch(min(_LOOK_AGAIN_SECONDS, plan.bound - drain.elapsed))
