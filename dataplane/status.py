"""What the sidecar says of itself: to the mesh as a SidecarStatus, on its own host as a file."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from dataplane.lastgood import write_file
from schemas import codec
from schemas.errors import NotFound
from schemas.log_levels import LogLevels
from schemas.records import OpenStreams, PlaintextPort, SidecarStatus


@dataclass(frozen=True, slots=True)
class LocalStatus:
    """`status`, and what only this host wants to know. Times are seconds since 1970."""

    status: SidecarStatus
    updated: int
    agent_pid: int
    envoy_pid: int | None
    from_last_good: bool
    """The configuration in force was read from disk, not from etcd."""


def write(path: Path, local: LocalStatus) -> None:
    """Raises OSError."""
    content = codec.to_builtins(local.status) | {
        "updated": local.updated,
        "agentPid": local.agent_pid,
        "envoyPid": local.envoy_pid,
        "fromLastGood": local.from_last_good,
    }
    write_file(path, json.dumps(content).encode())


def read(path: Path, *, now: float) -> dict[str, Any]:
    """What the sidecar last wrote, with `agentRuns`, `envoyRuns` and `staleSeconds` as of now.

    `openStreams` too: an agent that no longer runs ends nothing.

    Raises NotFound where no sidecar has run.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise NotFound(f"no status in {path}: the sidecar has not run there, or as another user") from error
    runs = _alive(content["agentPid"])
    stale_since = content.get("staleSince")
    if not runs:
        stale_since = stale_since or content["updated"]  # nobody has looked since
        if content.get("openStreams") is not None:  # it is the agent that ends them
            content["openStreams"] = msgspec.to_builtins(OpenStreams(bound_ms=0, problem="the agent does not run"))
    content["agentRuns"] = runs
    content["envoyRuns"] = content["envoyPid"] is not None and _alive(content["envoyPid"])
    content["staleSince"] = stale_since
    content["staleSeconds"] = 0 if stale_since is None else max(0, int(now) - stale_since)
    return content


def last_plaintext(path: Path) -> tuple[PlaintextPort, ...]:
    """What the sidecar last wrote of who sends plaintext."""
    try:
        return msgspec.convert(json.loads(path.read_bytes()).get("plaintext", ()), tuple[PlaintextPort, ...])
    except (OSError, ValueError, AttributeError):
        return ()


def last_ends_open(path: Path) -> bool:
    """Whether the sidecar could end what is open when it last wrote; True where nothing says that it could not."""
    try:
        said = json.loads(path.read_bytes()).get("openStreams")
        return said is None or not msgspec.convert(said, OpenStreams).goes_on
    except (OSError, ValueError, AttributeError, msgspec.ValidationError):
        return True


def last_health(path: Path) -> bool:
    """Whether the app was well when the sidecar last wrote; True where nothing says that it was not."""
    try:
        return not str(json.loads(path.read_bytes()).get("appHealth", "")).startswith("unhealthy")
    except (OSError, ValueError, AttributeError):
        return True


def table(content: Mapping[str, Any], *, now: float) -> str:
    """For people."""
    stale = content["staleSeconds"]
    source = "the last known good on disk" if content["fromLastGood"] else "etcd"
    lines = [
        f"service     {content['service']}.{content['namespace']} ({content['instance']})",
        f"agent       {_process(content['agentRuns'], content['agentPid'])}",
        f"envoy       {_process(content['envoyRuns'], content['envoyPid'])}",
        f"revision    {content['ackedRevision']} acked by Envoy, {content['appliedRevision']} applied, from {source}",
        f"freshness   {f'STALE for {stale} s: no word from etcd' if stale else 'live'}",
        f"SVID        {_left(content['svidExpires'] - int(now))}",
    ]
    if (open_streams := content.get("openStreams")) is not None:  # of a version that says nothing of them
        lines.append(f"open        what is no longer allowed {msgspec.convert(open_streams, OpenStreams)}")
    if content.get("logLevels"):
        levels = msgspec.convert(content["logLevels"], LogLevels)
        lines.append(f"logs        {levels} for {max(0, levels.until - int(now))} s more, not as the settings say")
    if content.get("appHealth"):
        lines.append(f"app         {content['appHealth']}")
    lines += [f"NACK        {nack['resource']}: {nack['message']}" for nack in content["nacks"]]
    lines += [f"problem     {problem}" for problem in content["problems"]]
    return "\n".join(lines)


def _process(runs: bool, pid: int | None) -> str:
    return f"running, pid {pid}" if runs else "NOT RUNNING"


def _left(seconds: int) -> str:
    return f"expires in {seconds} s" if seconds > 0 else f"EXPIRED {-seconds} s ago"


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
