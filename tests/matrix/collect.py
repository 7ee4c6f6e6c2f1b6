"""Which tests are marked with which numbers: pytest's own collection, and nothing is run."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.matrix.lines import TITLES

REPOSITORY = Path(__file__).parents[2]
Held = Mapping[str, Mapping[int, Sequence[str]]]
"""Marker to number to tests, each once however many parameters it has."""


class CollectionFailed(Exception):
    """The text is what pytest said."""


@dataclass
class _Collector:
    """A pytest plugin."""

    held: dict[str, dict[int, dict[str, None]]] = field(default_factory=lambda: {name: {} for name in TITLES})
    wrong: list[str] = field(default_factory=list)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            if item.get_closest_marker("skip") is None:  # what is never run holds nothing
                self._add(item)

    def _add(self, item: pytest.Item) -> None:
        test = item.nodeid.partition("[")[0]
        for name, titles in TITLES.items():
            for marker in item.iter_markers(name):
                for number in marker.args:
                    if number in titles:
                        self.held[name].setdefault(number, {})[test] = None
                    else:
                        self.wrong.append(f"{test}: there is no {name} {number!r}")
                if not marker.args:
                    self.wrong.append(f"{test}: {name} without a number")


def collect(paths: Sequence[str] = ()) -> Held:
    """Of the tests in `paths`, or of all. Raises CollectionFailed: a test can't be collected, or has a wrong mark."""
    collector = _Collector()
    said = io.StringIO()
    options = ["--collect-only", "-p", "no:cacheprovider", "-c", str(REPOSITORY / "pyproject.toml")]
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = pytest.main([*options, *(paths or [str(REPOSITORY / "tests")])], plugins=[collector])
    if code != pytest.ExitCode.OK:
        raise CollectionFailed(said.getvalue()[-4000:])
    if collector.wrong:
        raise CollectionFailed("\n".join(sorted(set(collector.wrong))))
    return {
        name: {number: sorted(tests) for number, tests in sorted(found.items())}
        for name, found in collector.held.items()
    }
