"""What a sidecar is to log for a time: checked, and as a record. Pure."""

from collections.abc import Mapping

import msgspec

from schemas import checking
from schemas.errors import InvalidInput, Problem
from schemas.keys import LogLevelRef
from schemas.log_levels import MAX_COMPONENTS, MAX_SECONDS, MIN_SECONDS, LogLevels
from schemas.records import LogLevel

# Seconds that the key outlives what it says: no sidecar goes back because a lease ended a moment too early.
KEPT_SECONDS = 10


def ordered(
    ref: LogLevelRef, level: str, components: Mapping[str, str], seconds: int, *, now: float, by: str
) -> LogLevel | None:
    """None: back to the settings, now. now: seconds since 1970. Raises InvalidInput with every problem."""
    if not level and not components:
        return None
    problems = []
    if not MIN_SECONDS <= seconds <= MAX_SECONDS:
        remedy = f"use {MIN_SECONDS} s to {MAX_SECONDS // 3600} h"
        problems.append(Problem("log level", f"for {seconds} s", "seconds", remedy))
    until = int(now) + seconds
    plain = {"components": dict(components), "until": until} | ({"level": level} if level else {})
    if len(components) > MAX_COMPONENTS:
        problems.append(Problem("log level", f"{len(components)} components", "components", f"name {MAX_COMPONENTS}"))
    faults = list(checking.faults(plain, LogLevels))
    problems += [Problem("log level", one.message, checking.json_path(one.path), one.remedy) for one in faults]
    if problems:
        raise InvalidInput(*problems)
    return LogLevel(
        namespace=ref.service.namespace,
        service=ref.service.name,
        instance=ref.instance,
        levels=msgspec.convert(plain, LogLevels),
        seconds=seconds,
        at=int(now),
        by=by,
    )
