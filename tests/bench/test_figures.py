"""What the benchmarks themselves must get right: ratios, verdicts, and that a failed request is no result."""

import json
from pathlib import Path

import pytest

from tests.bench import harness
from tests.bench.harness import Target, figure, percentile, table
from tests.bench.wrk import LoadFailed, Wrk, WrkNotFoundError, find_wrk, read


def counted(**changes: int) -> str:
    numbers = {"requests": 500, "microseconds": 250_000, "socket": 0, "status": 0, "p50": 1500} | changes
    return f"Running 1s test\nCOUNTED {json.dumps(numbers)}\n"


class TestFigure:
    def test_the_median_of_the_ratios_within_its_bounds(self) -> None:
        made = figure("x", "x", [(3.0, 1.0), (2.0, 1.0), (20.0, 2.0), (8.0, 4.0), (1.0, 1.0)], "ms", Target("<=", 2.0))
        assert (made.ratio, made.subject, made.baseline, made.pairs) == (2.0, 3.0, 1.0, 5)
        assert made.low <= made.ratio <= made.high
        assert made.holds

    def test_a_miss_is_printed_as_a_miss(self) -> None:
        made = figure("x", "x", [(96.0, 100.0)] * 3, "1/s", Target(">=", 0.97))
        assert made.holds is False
        assert "MISS" in table([made])

    def test_the_file_has_every_field_that_readers_expect(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(harness, "RESULTS", tmp_path / "results")
        content = json.loads(figure("x", "x", [(1.0, 2.0)], "ms").write().read_text())
        assert content.keys() >= {
            "name", "ratio", "low", "high", "target", "holds", "pairs", "subject", "baseline", "unit",
        }  # fmt: skip
        assert (content["ratio"], content["target"], content["holds"]) == (0.5, None, None)

    def test_percentile(self) -> None:
        assert percentile([float(number) for number in range(100)], 0.99) == 99.0


class TestWrk:
    def test_what_it_counted(self) -> None:
        result = read(counted())
        assert (result.requests, result.per_second, result.p50_ms) == (500, 2000.0, 1.5)

    @pytest.mark.parametrize("fault", [{"socket": 1}, {"status": 1}, {"requests": 0}])
    def test_a_run_with_a_failed_request_is_no_result(self, fault: dict[str, int]) -> None:
        with pytest.raises(LoadFailed):
            read(counted(**fault))

    def test_neither_is_one_that_said_nothing(self) -> None:
        with pytest.raises(LoadFailed, match="unable to connect"):
            read("unable to connect to 127.0.0.1:1 Connection refused")

    def test_path_before_cache_and_only_what_runs(self, tmp_path: Path) -> None:
        cache = tmp_path / "cache"
        self.program(cache / "broken", "echo no such library >&2; exit 127")
        kept = self.program(cache / "debian-1", "echo 'wrk 4.1.0'; exit 1")
        environ = {"PATH": str(tmp_path / "bin")}
        assert find_wrk(print, environ, cache) == Wrk(kept, kept.parent)
        on_path = self.program(tmp_path / "bin", "echo 'wrk 4.2.0'; exit 1")
        assert find_wrk(print, environ, cache) == Wrk(on_path)

    def test_nowhere_says_what_was_tried_and_what_to_do(self, tmp_path: Path) -> None:
        with pytest.raises(WrkNotFoundError, match=r"apt-get is not on PATH.*Install the package `wrk`"):
            find_wrk(print, {"PATH": str(tmp_path)}, tmp_path / "cache", suite="bookworm")

    @staticmethod
    def program(directory: Path, text: str) -> Path:
        directory.mkdir(parents=True)
        path = directory / "wrk"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return path
