"""`proxy log-level`: what a sidecar's Envoy and agent log, for a time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click
import trio

from controlplane.meshadm import output
from controlplane.meshadm.client import MeshClient, new_request_id
from controlplane.meshadm.errors import SidecarsNotCurrent
from controlplane.meshadm.options import Connect, Duration, MeshCommand, connects, formats
from controlplane.meshadm.output import Format
from controlplane.meshadm.sidecars import plain_levels
from controlplane.meshadm.table import printable
from schemas.api import mesh_pb2 as pb
from schemas.errors import InvalidInput, NotFound, Problem
from schemas.log_levels import AGENT, LEVELS
from schemas.records import SidecarStatus

DEFAULT = "default"
# Seconds between two looks whether the sidecar has said that it runs it; it usually has at the first.
FIRST_LOOK_S, LONGEST_LOOK_S = 0.1, 1.0


@dataclass(frozen=True, slots=True)
class Wanted:
    level: str
    """Empty: as the settings say."""
    components: Mapping[str, str]
    seconds: int

    def is_run_by(self, status: SidecarStatus, until: int) -> bool:
        """Whether the sidecar has said so, but for loggers that it does not have."""
        running = status.log_levels
        if not self.level and not self.components:
            return running is None
        if running is None or running.until != until:
            return False
        return (running.level or "") == self.level and running.components.items() <= self.components.items()


class LevelOfComponent(click.ParamType[tuple[str, str]]):
    """``http=trace``."""

    name = "component"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        name, equals, level = str(value).partition("=")
        if not equals or level not in LEVELS:
            self.fail(f"{value!r} is not LOGGER=LEVEL; levels are {', '.join(LEVELS)}", param, ctx)
        return name, level


@click.command(
    "log-level",
    cls=MeshCommand,
    short_help="Say what a sidecar logs, for a time.",
    example="""
meshadm proxy log-level shop/web.web-1 debug
meshadm proxy log-level web-1 --component http=trace --component router=debug --for 2m
meshadm proxy log-level web-1 info --component agent=debug
meshadm proxy log-level web-1 default
meshadm proxy log-level web-1
""",
)
@click.argument("sidecar")
@click.argument("level", required=False, type=click.Choice([*LEVELS, DEFAULT]))
@click.option(
    "--component",
    "components",
    type=LevelOfComponent(),
    multiple=True,
    metavar="LOGGER=LEVEL",
    help=f"Of one logger of Envoy, such as http, router, rbac or connection, or of the {AGENT}. Repeat it for more.",
)
@click.option(
    "--for", "lasting", type=Duration(), default="10m", show_default=True, help="Then it goes back; 1d at most."
)
@click.option(
    "--timeout", type=Duration(), default="10s", show_default=True, help="How long to wait until the sidecar runs it."
)
@formats("table", "json")
@connects
def log_level(
    connect: Connect,
    sidecar: str,
    level: str | None,
    components: tuple[tuple[str, str], ...],
    lasting: float,
    timeout: float,
    form: Format,
) -> None:
    """Change what a sidecar's Envoy and agent log, while they run; after a time they go back by themselves.

    SIDECAR is NAMESPACE/SERVICE.INSTANCE as of `meshadm status`, or an INSTANCE that only one sidecar has. LEVEL is of
    all loggers; default, or no LEVEL beside --component: as the sidecar's settings say. default alone goes back now.
    Without LEVEL and --component: shows what it logs.

    Ends with 7 when the sidecar does not say in time that it runs it. At debug and below Envoy writes headers into the
    sidecar's journal, with what is secret in them.
    """
    wanted = Wanted("" if level in (None, DEFAULT) else level or "", dict(components), round(lasting))

    async def show(client: MeshClient) -> dict[str, Any]:
        return plain(_found(sidecar, (await client.sidecars()).statuses), 0)

    async def change(client: MeshClient) -> dict[str, Any]:
        status = _found(sidecar, (await client.sidecars()).statuses)
        request = pb.SetLogLevelRequest(
            request_id=new_request_id(), namespace=status.namespace, service=status.service, instance=status.instance,
            level=wanted.level, components=wanted.components, seconds=wanted.seconds,
        )  # fmt: skip
        reply = await client.call("/mesh.v1.Sidecars/SetLogLevel", request, pb.SetLogLevelReply, write=True)
        running = await _until_run(client, _name(status), wanted, reply, timeout)
        return plain(running, reply.revision)

    told = connect.run(show if level is None and not components else change)
    if form == "json":
        output.show_plain(told, form)
    else:
        output.line(printable(words(told)))
    lacking = sorted(wanted.components.keys() - told["components"].keys())
    if lacking:
        names = ", ".join(lacking)
        raise InvalidInput(
            Problem(told["sidecar"], f"has no logger {names}", "--component", "`meshadm status` has them")
        )


async def _until_run(
    client: MeshClient, name: str, wanted: Wanted, reply: pb.SetLogLevelReply, timeout: float
) -> SidecarStatus:
    """Raises SidecarsNotCurrent where it does not say so in time."""
    pause = FIRST_LOOK_S
    with trio.move_on_after(timeout):
        while True:
            for status in (await client.sidecars()).statuses:
                if _name(status) == name and wanted.is_run_by(status, reply.until):
                    return status
            await trio.sleep(pause)
            pause = min(2 * pause, LONGEST_LOOK_S)
    raise SidecarsNotCurrent(
        f"revision {reply.revision} is written, and {name} has not said within {timeout:g} s that it runs it\n"
        "see `meshadm status`; it will as soon as it is connected again, unless its time is over by then"
    )


def _found(sidecar: str, statuses: Sequence[SidecarStatus]) -> SidecarStatus:
    """Raises NotFound, and InvalidInput where several are meant."""
    found = [one for one in statuses if sidecar in (_name(one), f"{one.service}.{one.instance}", one.instance)]
    if not found:
        raise NotFound(
            f"no sidecar {sidecar} is alive; `meshadm status` shows who is: write NAMESPACE/SERVICE.INSTANCE"
        )
    if len(found) > 1:
        names = ", ".join(map(_name, found))
        raise InvalidInput(Problem(f"sidecar {sidecar}", f"may be any of {names}", remedy="write one of these"))
    return found[0]


def _name(status: SidecarStatus) -> str:
    return f"{status.namespace}/{status.service}.{status.instance}"


def plain(status: SidecarStatus, revision: int) -> dict[str, Any]:
    """``{sidecar, level, components, until, revision}``; revision 0: nothing was written."""
    none: dict[str, Any] = {"level": None, "components": {}, "until": None}
    return {"sidecar": _name(status), **(plain_levels(status.log_levels) or none), "revision": revision}


def words(told: Mapping[str, Any]) -> str:
    if told["until"] is None:
        return f"{told['sidecar']} logs as its settings say"
    components = (f"{name}={level}" for name, level in sorted(told["components"].items()))
    levels = ", ".join([*([told["level"]] if told["level"] else []), *components])
    return f"{told['sidecar']} logs {levels} until {told['until']}"
