"""The matrix itself: what it counts, and that it notices what is missing."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.matrix.__main__ import main
from tests.matrix.lines import FAULTS, MUST_HOLD, SPIFFE


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


@pytest.fixture
def matrix(capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    def run(*arguments: str) -> Done:
        code = main(arguments)
        said = capsys.readouterr()
        return Done(code, said.out, said.err)

    return run


def write(path: Path, marks: Mapping[str, str]) -> None:
    """A file of tests: name of the test to its decorators."""
    tests = "".join(f"{marks[name]}\ndef {name}():\n    pass\n\n\n" for name in marks)
    path.write_text("import pytest\n\n\n" + tests)


def marks(but: tuple[str, int] | None = None) -> dict[str, str]:
    return {
        f"test_{name}_{number}": f"@pytest.mark.{name}({number})"
        for name, numbers in MUST_HOLD.items()
        for number in numbers
        if (name, number) != but
    }


def test_all_that_must_be_held(matrix: Callable[..., Done], tmp_path: Path) -> None:
    write(tmp_path / "test_all.py", marks())
    done = matrix(str(tmp_path))
    assert done.code == 0, done.out + done.err
    assert "test_all.py::test_fault_18" in done.out
    assert "fault(1)  etcd's leader killed during writes: open" in done.out
    assert "MISSING" not in done.out


@pytest.mark.parametrize("but", [("spiffe", 24), ("fault", 18)])
def test_a_number_that_no_test_holds_is_noticed(
    matrix: Callable[..., Done], but: tuple[str, int], tmp_path: Path
) -> None:
    write(tmp_path / f"test_{tmp_path.name}.py", marks(but))
    done = matrix(str(tmp_path))
    assert done.code == 1, done.out + done.err
    assert f"{but[0]}: MISSING, held by no test and must be: {but[1]}" in done.out


def test_a_test_that_is_never_run_holds_nothing(matrix: Callable[..., Done], tmp_path: Path) -> None:
    most = marks(("spiffe", 7))
    write(tmp_path / f"test_{tmp_path.name}.py", most | {"test_seven": "@pytest.mark.skip\n@pytest.mark.spiffe(7)"})
    done = matrix(str(tmp_path))
    assert done.code == 1
    assert "spiffe: MISSING, held by no test and must be: 7" in done.out


def test_parameters_and_classes_count_once_and_as_json(matrix: Callable[..., Done], tmp_path: Path) -> None:
    (tmp_path / "test_more.py").write_text(
        "import pytest\n\n\n"
        "@pytest.mark.spiffe(1)\n"
        "class TestIt:\n"
        '    @pytest.mark.parametrize("x", [1, pytest.param(2, marks=pytest.mark.fault(3))])\n'
        "    def test_x(self, x):\n        pass\n"
    )
    done = matrix("-o", "json", str(tmp_path))
    assert done.code == 1
    said = json.loads(done.out)
    assert [len(said[name]) for name in ("spiffe", "fault")] == [len(SPIFFE), len(FAULTS)] == [24, 30]
    first, third = said["spiffe"][0], said["fault"][2]
    assert (first["number"], first["mustHold"]) == (1, True)
    assert (third["number"], third["mustHold"]) == (3, False)
    for one in (first, third):
        (test,) = one["tests"]
        assert test.endswith("test_more.py::TestIt::test_x")


@pytest.mark.parametrize(
    "broken",
    ["import nowhere_to_be_found\n", "import pytest\n\n\n@pytest.mark.fault(31)\ndef test_x():\n    pass\n"],
    ids=["not collectable", "no such number"],
)
def test_what_can_not_be_read_is_an_error(matrix: Callable[..., Done], broken: str, tmp_path: Path) -> None:
    (tmp_path / f"test_broken_{tmp_path.name}.py").write_text(broken)
    done = matrix(str(tmp_path))
    assert done.code == 2
    assert "test_broken" in done.err
