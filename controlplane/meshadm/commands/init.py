"""`init`: from nothing to a mesh."""

from pathlib import Path
from typing import Any

import click
import trio

from controlplane.bootstrap.options import InitOptions, InitResult, Step
from controlplane.meshadm import output
from controlplane.meshadm.options import Duration, MeshCommand, formats
from controlplane.meshadm.output import Format
from schemas.keys import DEFAULT_PREFIX

_MARKS = {"done": "+", "already": "=", "warning": "!"}


@click.command(
    "init",
    cls=MeshCommand,
    short_help="Make a mesh: keys, access rules, CA.",
    example="""
meshadm init --trust-domain example.org
meshadm init --trust-domain example.org --etcd 10.0.0.1:2379 --api 10.0.0.1:7443 --join 10.0.0.1:7444
meshadm init --trust-domain example.org --dir ./mesh --files-only
""",
)
@click.option("--trust-domain", required=True, help="Stands in every identity of the mesh, as example.org; for good.")
@click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    default="/etc/mesh",
    show_default=True,
    help="Where the files go; what exists is kept.",
)
@click.option(
    "--etcd",
    multiple=True,
    default=("127.0.0.1:2379",),
    show_default=True,
    metavar="HOST:PORT",
    help="A client address of etcd. Repeat it for a cluster.",
)
@click.option(
    "--etcd-host",
    "etcd_hosts",
    multiple=True,
    metavar="NAME|IP",
    help="A name in etcd's server certificate. Repeat it.  [default: the hosts of --etcd]",
)
@click.option("--api", default="127.0.0.1:7443", show_default=True, help="Where the replica serves identities (mTLS).")
@click.option("--join", default="127.0.0.1:7444", show_default=True, help="Where the replica serves joining hosts.")
@click.option(
    "--socket",
    type=click.Path(path_type=Path),
    default="/run/mesh/controlplane/api.sock",
    show_default=True,
    help="The replica's socket for root on its own host.",
)
@click.option("--key-prefix", default=DEFAULT_PREFIX, show_default=True, help="Of the mesh's keys in etcd.")
@click.option("--files-only", is_flag=True, help="Stop after the files; run it again when etcd runs with them.")
@click.option("--allow-known-bad-etcd", is_flag=True, help="Take an etcd whose access control has known holes.")
@click.option("--etcd-timeout", type=Duration(), default="10s", show_default=True, help="How long to wait for etcd.")
@formats("table", "json", "yaml")
def init(
    trust_domain: str,
    directory: Path,
    etcd: tuple[str, ...],
    etcd_hosts: tuple[str, ...],
    api: str,
    join: str,
    socket: Path,
    key_prefix: str,
    files_only: bool,
    allow_known_bad_etcd: bool,
    etcd_timeout: float,
    form: Format,
) -> None:
    """Make a mesh: keys and certificates, etcd's users and access rules, the CA.

    Safe to run again: each step keeps what an earlier run made, and goes on where that one ended.
    """
    from controlplane.bootstrap.run import init as bootstrap  # only this command needs the CA and etcd

    options = InitOptions(
        directory=directory,
        trust_domain=trust_domain,
        etcd=etcd,
        etcd_hosts=etcd_hosts,
        api=api,
        join=join,
        socket=socket,
        prefix=key_prefix,
        files_only=files_only,
        allow_known_bad_etcd=allow_known_bad_etcd,
        etcd_timeout_seconds=etcd_timeout,
    )
    steps: list[Step] = []

    def report(step: Step) -> None:
        steps.append(step)
        if form == "table":
            output.line(f"{_MARKS[step.outcome]} {step.subject}" + (f": {step.detail}" if step.detail else ""))

    result = trio.run(bootstrap, options, report)
    if form == "table":
        for text in _closing(result):
            output.line(text)
    else:
        output.show_plain(_plain(result, steps), form)


def _closing(result: InitResult) -> list[str]:
    if not result.complete:
        return ["the files are ready; start etcd with them and run the same command without --files-only"]
    said = "is made" if result.created else "was there already"
    return [
        f"the mesh {result.trust_domain} {said}",
        f"start a replica: mesh-controlplane --config {result.config}",
    ]


def _plain(result: InitResult, steps: list[Step]) -> dict[str, Any]:
    """``{trustDomain, config, complete, created, steps: [{subject, outcome, detail}]}``."""
    return {
        "trustDomain": result.trust_domain,
        "config": str(result.config),
        "complete": result.complete,
        "created": result.created,
        "steps": [{"subject": one.subject, "outcome": one.outcome, "detail": one.detail} for one in steps],
    }
