"""`proxy`: what the Envoy of a sidecar on this host runs, and how much any sidecar logs.

`mesh-sidecar` looks: the two planes share no code.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import click

from controlplane.meshadm.commands.log_level import log_level
from controlplane.meshadm.options import MeshCommand, formats
from controlplane.meshadm.output import Format
from schemas.errors import NotFound

SETTINGS_DIRECTORY = Path("/etc/mesh/sidecars")
_PROGRAM = "mesh-sidecar"


@click.group("proxy", short_help="Look into a sidecar's Envoy; say what it logs.")
def proxy() -> None:
    """Look into a sidecar's Envoy.

    config and diff: of a sidecar on this host, as root or as the sidecar's user. SIDECAR is the name of its unit, web
    for mesh-sidecar@web, whose settings are /etc/mesh/sidecars/web.yaml; or the path of its settings file. Neither
    replicas nor etcd nor the agent are needed.

    log-level: of any sidecar of the mesh, by a replica.
    """


@proxy.command(
    "config",
    cls=MeshCommand,
    short_help="Show what Envoy runs, in words, and where it came from.",
    example="""
meshadm proxy config web
meshadm proxy config web -o json | jq .sections.routes
""",
)
@click.argument("sidecar")
@formats("table", "json")
@click.pass_context
def config(ctx: click.Context, sidecar: str, form: Format) -> None:
    """Show listeners, routes, clusters and endpoints of a sidecar's Envoy, each with the objects that it came from.

    Where Envoy does not answer, what it would be given; the first line says so.
    """
    ctx.exit(_look("config", sidecar, form))


@proxy.command(
    "diff",
    cls=MeshCommand,
    short_help="Compare what Envoy runs with what the model says.",
    example="""
meshadm proxy diff web
meshadm proxy diff web -o json
""",
)
@click.argument("sidecar")
@formats("table", "json")
@click.pass_context
def diff(ctx: click.Context, sidecar: str, form: Format) -> None:
    """Compare what a sidecar's Envoy runs with what its saved state makes from scratch.

    Ends with 0 where both are the same, and with 8 where they are not, or where Envoy has refused something.
    """
    ctx.exit(_look("diff", sidecar, form))


proxy.add_command(log_level)


def _look(command: str, sidecar: str, form: Format) -> int:
    """The exit code of `mesh-sidecar`, whose codes mean the same."""
    program = Path(sys.executable).with_name(_PROGRAM)
    found = str(program) if program.exists() else shutil.which(_PROGRAM)
    if found is None:
        raise NotFound(f"no {_PROGRAM} beside {sys.executable}, nor on PATH: run this on the sidecar's host")
    arguments = [found, "--config", str(_settings_of(sidecar)), "-o", form, command]
    return subprocess.run(arguments, check=False).returncode


def _settings_of(sidecar: str) -> Path:
    if "/" in sidecar or sidecar.endswith(".yaml"):
        return Path(sidecar)
    path = SETTINGS_DIRECTORY / f"{sidecar}.yaml"
    if not path.exists():
        known = ", ".join(sorted(one.stem for one in SETTINGS_DIRECTORY.glob("*.yaml"))) or "none"
        raise NotFound(f"no {path}: no sidecar of that name on this host (there are: {known}); run this on its host")
    return path
