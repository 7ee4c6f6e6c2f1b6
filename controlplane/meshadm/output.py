"""[edge] To the terminal: tables for people, JSON and YAML for programs, errors on standard error in either form."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import click
import msgspec
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from controlplane.exit_codes import ExitCode
from controlplane.meshadm import table
from controlplane.meshadm.sidecars import State
from controlplane.meshadm.table import Table, printable
from schemas import codec
from schemas.errors import InvalidInput

Format = Literal["table", "json", "yaml"]

# Colours say the same as the words beside them.
_STYLES = {State.EXPIRED.value: "red", State.REFUSED.value: "red", State.STALE.value: "yellow", "no": "yellow"}


def line(text: str) -> None:
    click.echo(text)


def notice(text: str) -> None:
    """For people, beside the result: standard error."""
    click.echo(text, err=True)


def show_table(shown: Table) -> None:
    """Coloured and fitted to the width on a terminal; aligned text with nothing cut off elsewhere."""
    if not sys.stdout.isatty() or not shown.rows:
        for text in table.lines(shown):
            line(text)
        return
    rich = RichTable(box=None, pad_edge=False, header_style="bold")
    for title in shown.columns:
        rich.add_column(title, overflow="fold")
    for row in shown.rows:
        rich.add_row(*(Text(cell, style=_STYLES.get(cell.split(" ")[0], "")) for cell in row))
    Console().print(rich)


def show_plain(value: Mapping[str, Any], form: Format) -> None:
    """One value as JSON or YAML."""
    line(as_json(value) if form == "json" else codec.dump_yaml([value]).rstrip("\n"))


def show_documents(values: Sequence[Mapping[str, Any]]) -> None:
    """A YAML stream that `apply -f -` takes."""
    line(codec.dump_yaml(values).rstrip("\n"))


def as_json(value: object) -> str:
    return msgspec.json.format(as_json_line(value), indent=2)


def as_json_line(value: object) -> str:
    """Strict JSON: a NaN, which a foreign writer may store, is null."""
    return msgspec.json.encode(value).decode()


def show_error(error: BaseException, code: ExitCode, form: Format) -> None:
    """What failed, where, why and what to do: for people a line each, for programs one JSON object."""
    if form == "json":
        notice(as_json({"error": plain_error(error, code)}))
        return
    if isinstance(error, InvalidInput):
        for problem in error.problems:
            where = f"{problem.subject}: {problem.path}" if problem.path else problem.subject
            notice(f"{click.style('error', fg='red')}: {printable(where)}: {printable(problem.message)}")
            if problem.remedy:
                notice(f"  remedy: {printable(problem.remedy)}")
        return
    first, *rest = (str(error) or type(error).__name__).splitlines()
    notice(f"{click.style('error', fg='red')}: {printable(first)}")
    for text in rest:
        notice(f"  {printable(text)}")


def plain_error(error: BaseException, code: ExitCode) -> dict[str, Any]:
    """``{code, name, message, problems: [{subject, path, message, remedy}]}``."""
    problems = error.problems if isinstance(error, InvalidInput) else ()
    return {
        "code": int(code),
        "name": code.name,
        "message": str(error) or type(error).__name__,
        "problems": [
            {"subject": one.subject, "path": one.path, "message": one.message, "remedy": one.remedy} for one in problems
        ],
    }
