"""The `meshadm` program: its commands."""

import click

from controlplane.meshadm.commands.apply import apply, delete, validate
from controlplane.meshadm.commands.attestor import attestor
from controlplane.meshadm.commands.authz import authz
from controlplane.meshadm.commands.authz_preview import preview_command  # noqa: F401  (makes itself a command of `authz`)
from controlplane.meshadm.commands.ca import ca
from controlplane.meshadm.commands.check import check
from controlplane.meshadm.commands.federation import bundle, federation
from controlplane.meshadm.commands.identity import identity
from controlplane.meshadm.commands.init import init
from controlplane.meshadm.commands.jwks import jwks
from controlplane.meshadm.commands.login import login, logout
from controlplane.meshadm.commands.mtls import mtls
from controlplane.meshadm.commands.operator import operator
from controlplane.meshadm.commands.proxy import proxy
from controlplane.meshadm.commands.read import describe, get
from controlplane.meshadm.commands.route import route
from controlplane.meshadm.commands.status import status
from controlplane.meshadm.commands.token import token
from controlplane.meshadm.commands.tools import completion, schema
from controlplane.meshadm.commands.watch import watch
from controlplane.meshadm.commands.why import why


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="hostmesh", prog_name="meshadm")
def main() -> None:
    """Operate the mesh: set it up, change its configuration, see what its sidecars do.

    On a replica's host, root needs no further option. From elsewhere: `meshadm login` first.
    """


COMMANDS = (
    init, login, logout, token, operator, identity, attestor, apply, get, describe, delete, status, validate, watch, ca,
    check, route, authz, mtls, why, jwks, federation, bundle, proxy, schema, completion,
)  # fmt: skip

for command in COMMANDS:
    main.add_command(command)

if __name__ == "__main__":
    main(prog_name="meshadm")
