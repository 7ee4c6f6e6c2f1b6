"""`schema`, `completion`: for editors and shells."""

import click
from click.shell_completion import get_completion_class

from controlplane.meshadm import output
from controlplane.meshadm.options import MeshCommand
from schemas import codec

COMPLETE_VARIABLE = "_MESHADM_COMPLETE"  # where click's own completion looks


@click.command(
    "schema",
    cls=MeshCommand,
    example="""
meshadm schema > mesh.schema.json
# first line of a YAML file, for editors: # yaml-language-server: $schema=mesh.schema.json
""",
)
def schema() -> None:
    """Print the JSON Schema (2020-12) of all kinds."""
    output.line(output.as_json(codec.json_schema()))


@click.command(
    "completion",
    cls=MeshCommand,
    short_help="Print completion code for a shell.",
    example="""
eval "$(meshadm completion bash)"
meshadm completion zsh > ~/.zfunc/_meshadm
meshadm completion fish > ~/.config/fish/completions/meshadm.fish
""",
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the code that makes a shell complete meshadm's commands, options and kinds."""
    found = get_completion_class(shell)
    if found is None:
        raise click.UsageError(f"click knows no completion for {shell}")
    output.line(found(ctx.find_root().command, {}, "meshadm", COMPLETE_VARIABLE).source())
