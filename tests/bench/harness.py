"""What every figure uses: alternating A/B pairs, the median of their ratios with its spread, JSON and a table."""

import json
import random
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

RESULTS = Path(__file__).parents[2] / "bench-results"

# The middle half of the bootstrap's medians would look better than it is; 95 % is what a reader expects.
CONFIDENCE = 0.95
RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Target:
    """What the ratio is held to; None: reported only."""

    relation: Literal["<=", ">="]
    value: float

    def holds(self, ratio: float) -> bool:
        return ratio <= self.value if self.relation == "<=" else ratio >= self.value

    def __str__(self) -> str:
        return f"{self.relation} {self.value:g}"


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure. `subject` and `baseline` are raw medians in `unit`; `ratio` is subject to baseline."""

    name: str
    what: str
    ratio: float
    low: float
    high: float
    target: str | None
    holds: bool | None
    pairs: int
    subject: float
    baseline: float
    unit: str

    def write(self) -> Path:
        """As ``bench-results/<name>.json``."""
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{self.name}.json"
        path.write_text(json.dumps(asdict(self), indent=2) + "\n")
        return path


def figure(
    name: str,
    what: str,
    pairs: Sequence[tuple[float, float]],
    unit: str,
    target: Target | None = None,
) -> Figure:
    """From (subject, baseline) pairs that were measured one right after the other, in alternating order.

    The ratio is the median of the pairs' ratios; low and high bound it with 95 % confidence (bootstrap).
    """
    ratios = [subject / baseline for subject, baseline in pairs]
    ratio = statistics.median(ratios)
    low, high = _bounds(ratios)
    return Figure(
        name=name,
        what=what,
        ratio=round(ratio, 4),
        low=round(low, 4),
        high=round(high, 4),
        target=str(target) if target else None,
        holds=target.holds(ratio) if target else None,
        pairs=len(pairs),
        subject=statistics.median(subject for subject, _ in pairs),
        baseline=statistics.median(baseline for _, baseline in pairs),
        unit=unit,
    )


def _bounds(ratios: Sequence[float]) -> tuple[float, float]:
    generator = random.Random(0)  # the same data give the same bounds
    medians = sorted(statistics.median(generator.choices(ratios, k=len(ratios))) for _ in range(RESAMPLES))
    cut = int(RESAMPLES * (1 - CONFIDENCE) / 2)
    return medians[cut], medians[-cut - 1]


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` (0 to 1) of them lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def table(figures: Sequence[Figure]) -> str:
    rows = [("figure", "ratio", "95 %", "target", "", "ours", "baseline", "pairs")]
    for one in figures:
        verdict = "" if one.holds is None else "holds" if one.holds else "MISS"
        rows.append(
            (
                one.name,
                f"{one.ratio:.3f}",
                f"{one.low:.3f} to {one.high:.3f}",
                one.target or "",
                verdict,
                f"{one.subject:.4g} {one.unit}",
                f"{one.baseline:.4g} {one.unit}",
                str(one.pairs),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
