"""[edge] `mesh-sidecar config` and `diff`: what Envoy runs, in words, and against the model."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import trio

from dataplane.config import SidecarSettings
from dataplane.envoy.admin import Admin
from dataplane.inspection import differ, model, words
from dataplane.inspection.running import Running, modelled, running
from schemas.errors import Unavailable

# Seconds. The agent saves its state a second after a change; a difference that lasts longer is one.
PATIENCE_S = 5.0
_AGAIN_S = 0.25
ALL = "*"


class View(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What `config` tells, as JSON: camelCase."""

    service: str
    instance: str
    revision: int
    saved_seconds_ago: int
    source: str
    """``envoy``: it runs this. ``model``: Envoy does not answer, and this is what it would be given."""
    sections: dict[str, tuple[words.Described, ...]]
    refused: dict[str, str] = {}
    problems: tuple[str, ...] = ()
    log_levels: dict[str, str] = {}
    """Level by logger of Envoy, of those that are not at the one of the settings; `ALL`: of all others."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What `diff` tells, as JSON: camelCase."""

    service: str
    instance: str
    revision: int
    same: bool
    differences: tuple[differ.Difference, ...]
    refused: dict[str, str]


async def config(settings: SidecarSettings, last_good: Path, admin: Admin) -> View:
    """Raises what `model.load` raises."""
    known = model.load(settings, last_good)
    levels: Mapping[str, str] = {}
    try:
        runs, source = running(await admin.config_dump()), "envoy"
        levels = changed_levels(await admin.log_levels(), settings.envoy_log_level)
    except Unavailable:
        runs, source = Running(modelled(known.compiler.resources()), {}), "model"
    problems = [*known.state.problems(), *known.compiler.problems()]
    return View(
        service=str(known.compiler.workload.service),
        instance=settings.instance,
        revision=known.state.revision,
        saved_seconds_ago=max(0, int(time.time()) - known.saved),
        source=source,
        sections=words.described(runs.messages, known.state, known.compiler.workload),
        refused=dict(runs.refused),
        problems=tuple(map(str, problems)),
        log_levels=dict(levels),
    )


def changed_levels(of_loggers: Mapping[str, str], usual: str) -> dict[str, str]:
    """What differs from the usual level, in as few words as that takes."""
    most = max(set(of_loggers.values()), key=lambda one: (list(of_loggers.values()).count(one), one), default=usual)
    rest = {name: level for name, level in sorted(of_loggers.items()) if level != most}
    return {**({} if most == usual else {ALL: most}), **rest}


async def diff(settings: SidecarSettings, last_good: Path, admin: Admin, *, patience: float = PATIENCE_S) -> Verdict:
    """Waits a little for what is on its way. Raises Unavailable when Envoy does not answer, and as `model.load`."""
    deadline = trio.current_time() + patience
    while True:
        known = model.load(settings, last_good)
        runs = running(await admin.config_dump())
        found = differ.differences(runs.messages, modelled(known.compiler.resources()))
        if not found or trio.current_time() >= deadline:
            return Verdict(
                service=str(known.compiler.workload.service),
                instance=settings.instance,
                revision=known.state.revision,
                same=not found,
                differences=tuple(found),
                refused=dict(runs.refused),
            )
        await trio.sleep(_AGAIN_S)


def config_text(view: View) -> str:
    """For people."""
    where = "as Envoy runs it" if view.source == "envoy" else "as the model has it: ENVOY DOES NOT ANSWER"
    age = f"revision {view.revision}, saved {view.saved_seconds_ago} s ago"
    lines = [f"{view.service} ({view.instance}), {where}; {age}"]
    if view.log_levels:
        levels = ", ".join(f"{name}={level}" for name, level in view.log_levels.items())
        lines.append(f"Envoy logs at other levels than its settings say: {levels}")
    for section, resources in view.sections.items():
        lines += ["", section if resources else f"{section}: none"]
        for one in resources:
            lines.append(f"  {one.name}   from {', '.join(one.origin) or 'nothing that is known'}")
            lines += [f"    {text}" for text in one.does]
    return "\n".join([*lines, *_refusals(view.refused), *(f"problem: {text}" for text in view.problems)])


def diff_text(verdict: Verdict) -> str:
    """For people."""
    head = f"{verdict.service} ({verdict.instance}), revision {verdict.revision}: "
    if verdict.same:
        lines = [head + "Envoy runs what the model says"]
    else:
        lines = [head + f"{len(verdict.differences)} of Envoy's resources are not the model's"]
        lines += [str(one) for one in verdict.differences]
    return "\n".join([*lines, *_refusals(verdict.refused)])


def _refusals(refused: Mapping[str, str]) -> list[str]:
    return [f"REFUSED by Envoy: {name}: {text}" for name, text in sorted(refused.items())]


def as_json(value: Any) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
