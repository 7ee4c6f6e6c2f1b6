"""What the sidecars' own reports mean, and the table of them. Pure."""

import enum
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from controlplane.meshadm.table import Table, count, duration, printable
from schemas.log_levels import LogLevels
from schemas.names import ServiceRef
from schemas.records import OpenStreams, SidecarStatus


class State(enum.Enum):
    """The most urgent thing that holds, in this order. A sidecar whose lease has ended is not listed at all."""

    REVOKED = "revoked"
    """An operator revoked its identity: nobody serves it and no replica hears it, so that all else is old."""
    EXPIRED = "expired"
    """Its SVID is no longer valid: no peer talks to it."""
    REFUSED = "refused"
    """Envoy refused part of its configuration; the last good one goes on."""
    STALE = "stale"
    """It has no contact with etcd, and serves what it knew."""
    BEHIND = "behind"
    """It has not acked the newest revision yet; usual for a moment after a change."""
    CURRENT = "current"


# What `status` counts as wrong. Being behind is a matter of milliseconds after each change.
WRONG = frozenset({State.EXPIRED, State.REFUSED, State.STALE})


@dataclass(frozen=True, slots=True)
class Sidecar:
    status: SidecarStatus
    state: State

    @property
    def name(self) -> str:
        """As replicas name it."""
        return f"{self.status.namespace}/{self.status.service}.{self.status.instance}"


def judged(
    statuses: Sequence[SidecarStatus],
    config_revision: int,
    now: float,
    revoked: Collection[ServiceRef] = (),
) -> list[Sidecar]:
    """`now`: seconds since 1970."""
    return [
        Sidecar(
            status,
            State.REVOKED
            if ServiceRef(status.namespace, status.service) in revoked
            else _state(status, config_revision, now),
        )
        for status in statuses
    ]


def _state(status: SidecarStatus, config_revision: int, now: float) -> State:
    if status.svid_expires <= now:
        return State.EXPIRED
    if status.nacks:
        return State.REFUSED
    if status.stale_since is not None:
        return State.STALE
    return State.BEHIND if status.acked_revision < config_revision else State.CURRENT


def status_table(sidecars: Sequence[Sidecar], config_revision: int, now: float) -> Table:
    rows = tuple(
        (
            one.status.namespace,
            one.status.service,
            one.status.instance,
            "no" if one.status.stale_since is not None else "yes",
            _state_words(one, now),
            f"{one.status.acked_revision} of {config_revision}",
            str(len(one.status.nacks)),
            _expiry(one.status.svid_expires - now),
        )
        for one in sidecars
    )
    columns = ("NAMESPACE", "SERVICE", "INSTANCE", "CONNECTED", "STATE", "ACKED", "NACKS", "SVID EXPIRES")
    return Table(columns, rows, "no sidecar is connected")


def _state_words(sidecar: Sidecar, now: float) -> str:
    since = sidecar.status.stale_since
    return f"stale for {duration(now - since)}" if sidecar.state is State.STALE and since else sidecar.state.value


def _expiry(seconds: float) -> str:
    return f"in {duration(seconds)}" if seconds > 0 else f"{duration(seconds)} ago"


def details(sidecars: Sequence[Sidecar]) -> list[str]:
    """What the table has no room for: each refusal in Envoy's words, and what sidecars found wrong in the objects."""
    found: list[str] = []
    for one in sidecars:
        if one.state is State.REVOKED:
            found.append(
                printable(
                    f"{one.name} is revoked; its open watch of etcd, which shows nothing secret, lasts until its "
                    "connection ends"
                )
            )
        found += (
            printable(f"{one.name} refused {nack.resource} of revision {nack.revision}: {nack.message}")
            for nack in one.status.nacks
        )
        found += (printable(f"{one.name} reports: {problem}") for problem in one.status.problems)
        if (levels := one.status.log_levels) is not None:
            found.append(printable(f"{one.name} logs {levels} until {timestamp(levels.until)}"))
        if one.status.app_health not in ("", "healthy"):
            found.append(printable(f"the app of {one.name} is {one.status.app_health}"))
    return found


def uncut(sidecars: Sequence[Sidecar]) -> list[tuple[str, str]]:
    """Those that can't end what is open and no longer allowed, and why."""
    return [(name, said.problem) for name, said in _of_open_streams(sidecars) if said.goes_on]


def open_lines(sidecars: Sequence[Sidecar]) -> list[str]:
    """When what is open and no longer allowed ends; none where no sidecar says it."""
    longest = _longest(sidecars)
    return [] if longest is None else [f"what is open and no longer allowed {longest}"]


def plain_bounds(sidecars: Sequence[Sidecar]) -> dict[str, Any]:
    """``{openBoundMs, passedBoundMs, uncut: [{sidecar, why}], boundUnknown}``, as of a wait."""
    longest = _longest(sidecars)
    heard = (one for one in sidecars if one.state is not State.REVOKED)
    return {
        "openBoundMs": longest.bound_ms if longest is not None else None,
        "passedBoundMs": (longest.passed_bound_ms or None) if longest is not None else None,
        "uncut": [{"sidecar": name, "why": why} for name, why in uncut(sidecars)],
        "boundUnknown": [one.name for one in heard if one.status.open_streams is None],
    }


def _longest(sidecars: Sequence[Sidecar]) -> OpenStreams | None:
    ends = [said for _, said in _of_open_streams(sidecars) if not said.goes_on]
    if not ends:
        return None
    return OpenStreams(
        bound_ms=max(one.bound_ms for one in ends), passed_bound_ms=max(one.passed_bound_ms for one in ends)
    )


def _of_open_streams(sidecars: Sequence[Sidecar]) -> Iterator[tuple[str, OpenStreams]]:
    """What each says, without the revoked: nobody hears them."""
    for one in sidecars:
        if one.state is not State.REVOKED and one.status.open_streams is not None:
            yield one.name, one.status.open_streams


def verdict_line(sidecars: Sequence[Sidecar]) -> str:
    """``2 of 7 sidecars need a look: 1 refused, 1 stale``; empty where all is well."""
    wrong = [one for one in sidecars if one.state in WRONG]
    if not wrong:
        return ""
    parts = [f"{number} {state.value}" for state in State if (number := sum(one.state is state for one in wrong))]
    verb = "needs" if len(wrong) == 1 else "need"
    return f"{len(wrong)} of {count(len(sidecars), 'sidecar', 'sidecars')} {verb} a look: {', '.join(parts)}"


def plain_status(sidecars: Sequence[Sidecar], config_revision: int) -> dict[str, Any]:
    """``{configRevision, sidecars: [{namespace, service, instance, state, connected, ackedRevision, …}]}``."""
    return {
        "configRevision": config_revision,
        "sidecars": [
            {
                "namespace": one.status.namespace,
                "service": one.status.service,
                "instance": one.status.instance,
                "state": one.state.value,
                "connected": one.status.stale_since is None,
                "ackedRevision": one.status.acked_revision,
                "appliedRevision": one.status.applied_revision,
                "staleSince": None if one.status.stale_since is None else timestamp(one.status.stale_since),
                "svidExpires": timestamp(one.status.svid_expires),
                "nacks": [
                    {
                        "typeUrl": nack.type_url,
                        "resource": nack.resource,
                        "message": nack.message,
                        "revision": nack.revision,
                    }
                    for nack in one.status.nacks
                ],
                "problems": list(one.status.problems),
                "logLevels": plain_levels(one.status.log_levels),
                "appHealth": one.status.app_health or None,
                "openStreams": _plain_open(one.status.open_streams),
                "agentVersion": one.status.agent_version,
                "envoyVersion": one.status.envoy_version,
            }
            for one in sidecars
        ],
    }


def _plain_open(said: OpenStreams | None) -> dict[str, Any] | None:
    """``{boundMs, passedBoundMs, problem}``."""
    if said is None:
        return None
    return {"boundMs": said.bound_ms, "passedBoundMs": said.passed_bound_ms, "problem": said.problem}


def plain_levels(levels: LogLevels | None) -> dict[str, Any] | None:
    """``{level, components, until}``; `level` is null where only some loggers differ."""
    if levels is None:
        return None
    return {"level": levels.level, "components": levels.components, "until": timestamp(levels.until)}


# The last second of year 9999: above it Python has no date. Records may hold any number.
_LAST_SECOND = 253402300799


def timestamp(seconds: int) -> str:
    """RFC 3339, UTC."""
    return datetime.fromtimestamp(min(max(seconds, 0), _LAST_SECOND), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
