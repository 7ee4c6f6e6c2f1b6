"""What users rely on beyond single commands: help, words for kinds, completion, the schema, the page about it."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from controlplane.exit_codes import ExitCode
from controlplane.meshadm.__main__ import main
from controlplane.meshadm.kinds import kind_of, words_of
from controlplane.meshadm.options import EXIT_INTERRUPTED, Duration, MeshCommand
from controlplane.meshadm.table import Table, duration, joined, lines, printable
from schemas.errors import InvalidInput
from schemas.objects import KINDS

PAGE = Path(__file__).parents[3] / "docs" / "meshadm.md"


def commands(group: click.Group = main, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


ALL = dict(commands())


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_every_command_has_help_with_an_example_that_is_one(path: tuple[str, ...]) -> None:
    result = CliRunner().invoke(main, [*path, "--help"])
    assert result.exit_code == 0
    examples = result.output.partition("Examples:\n")[2]
    assert f"meshadm {' '.join(path)}" in examples
    command = ALL[path]
    assert isinstance(command, MeshCommand)
    known = {option for parameter in command.params for option in parameter.opts}
    for line in command.example.splitlines():
        if "meshadm" in line:
            used = set(re.findall(r"(?<= )--[a-z-]+", line.partition("meshadm ")[2].partition(" | ")[0]))
            assert used <= known, line


def test_every_option_has_help() -> None:
    for path, command in ALL.items():
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, (path, parameter.name)


def test_the_page_lists_every_command_option_kind_and_exit_code() -> None:
    page = PAGE.read_text()
    for path, command in ALL.items():
        assert f"`meshadm {' '.join(path)}" in page, path
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert any(f"`{option}" in page for option in parameter.opts), (path, parameter.opts)
    for code in ExitCode:
        assert f"| {int(code)} | `{code.name}` |" in page, code
    assert f"| {EXIT_INTERRUPTED} |" in page
    for kind in KINDS:
        for word in words_of(kind):
            assert f"`{word}`" in page, word


def test_kinds_in_every_form() -> None:
    assert {kind_of(word) for word in ("svc", "SVC", "service", "Services")} == {"Service"}
    assert kind_of("authorizationpolicies") == kind_of("authz") == "AuthorizationPolicy"
    assert kind_of("meshes") == "Mesh"
    words = [word for kind in KINDS for word in words_of(kind)]
    assert len(words) == len(set(words))
    with pytest.raises(InvalidInput, match="did you mean 'service'"):
        kind_of("servise")


def test_durations() -> None:
    def read(text: str) -> float:
        return Duration().convert(text, None, None)

    assert [read(text) for text in ("90", "1.5s", "15m", "1h", "7d", "250ms")] == [90, 1.5, 900, 3600, 604800, 0.25]
    for bad in ("", "h", "-1s", "1w", "1h30m", "0", "1e9", "9" * 12):
        with pytest.raises(click.BadParameter, match="write 30s, 15m"):
            read(bad)


def test_schema_is_json() -> None:
    result = CliRunner().invoke(main, ["schema"])
    assert json.loads(result.output)["$schema"].endswith("2020-12/schema")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_code_is_for_the_shell(shell: str) -> None:
    result = CliRunner().invoke(main, ["completion", shell])
    assert result.exit_code == 0
    assert "_MESHADM_COMPLETE" in result.output
    if program := shutil.which(shell):
        subprocess.run([program, "-n"], input=result.output, text=True, check=True)


@pytest.mark.parametrize(
    ("words", "expected"),
    [("meshadm get auth", "authz"), ("meshadm de", "describe"), ("meshadm token create --se", "--service")],
)
def test_completion_completes(words: str, expected: str) -> None:
    environment = {"_MESHADM_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    result = CliRunner(env=environment).invoke(main, [], prog_name="meshadm")
    assert f"plain,{expected}" in result.output.splitlines()


def test_a_bug_is_told_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise KeyError("x")

    monkeypatch.setattr("schemas.codec.json_schema", broken)
    result = CliRunner().invoke(main, ["schema"])
    assert result.exit_code == 1
    assert result.stderr.startswith("error: meshadm failed unexpectedly: KeyError: 'x'\n  this is a bug")


# -- forms of small values


@given(st.text())
def test_printable_is_one_line_that_no_terminal_acts_on(text: str) -> None:
    assert printable(text).isprintable()
    if text.isprintable():
        assert printable(text) == text


@given(st.lists(st.tuples(st.text(), st.text()).map(lambda row: tuple(map(printable, row))), min_size=1))
def test_columns_are_aligned(rows: list[tuple[str, str]]) -> None:
    header, *shown = lines(Table(("A", "B"), tuple(rows), ""))
    assert len(shown) == len(rows)
    for text, (first, second) in zip(shown, rows, strict=True):
        assert text.startswith(first.rstrip())
        assert text[header.index("B") :] == second.rstrip()


def test_small_forms() -> None:
    assert [duration(seconds) for seconds in (0, 59, 61, 3 * 3600 + 300, 86400, 5 * 86400)] == [
        "0s", "59s", "1m", "3h05m", "24h00m", "5d",
    ]  # fmt: skip
    assert joined([]) == "-"
    assert joined("abcdef") == "a, b, c, d, +2 more"
