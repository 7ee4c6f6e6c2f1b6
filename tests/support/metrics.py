"""What docs/metrics.md says that there is, in the names and labels of a scrape."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from prometheus_client.samples import Sample

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
_ROW = re.compile(r"^\|.*", re.MULTILINE)
_METRIC = re.compile(r"`(hostmesh_\w+)(?:\{([\w,]+)\})?`")

Metrics = dict[str, frozenset[str]]
"""Name to labels. A histogram stands there by its own name, a counter with ``_total``."""


def documented() -> Metrics:
    """Raises AssertionError for a metric that stands there twice."""
    found: Metrics = {}
    for row in _ROW.findall(PAGE.read_text()):
        for name, labels in _METRIC.findall(row):
            assert name not in found, f"{name} stands twice in {PAGE.name}"
            found[name] = frozenset(filter(None, labels.split(",")))
    return found


def as_scraped(metrics: Mapping[str, frozenset[str]], histograms: Iterable[str]) -> Metrics:
    """With the three names that Prometheus knows a histogram by."""
    found = dict(metrics)
    for name in histograms:
        labels = found.pop(name)
        found |= {f"{name}_bucket": labels | {"le"}, f"{name}_sum": labels, f"{name}_count": labels}
    return found


def check_documented(samples: Iterable[Sample]) -> None:
    """Raises AssertionError for what a real scrape has and the page has not."""
    known = documented()
    for sample in samples:
        if sample.name.endswith("_created"):
            continue
        name = next(
            (one for one in (sample.name, re.sub(r"_(bucket|sum|count)$", "", sample.name)) if one in known), None
        )
        assert name is not None, f"{sample.name} is not in {PAGE.name}"
        assert sample.labels.keys() - {"le"} == known[name], sample
