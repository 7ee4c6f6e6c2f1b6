"""etcd versions as text; what is known about their holes is `controlplane.store.version`'s. Pure: no IO."""

from __future__ import annotations

import re

from controlplane.store.version import NO_AUTH_BYPASS, Verdict, Version, format_version, judge

__all__ = ["NO_AUTH_BYPASS", "Verdict", "Version", "format_version", "judge", "parse_version"]


def parse_version(text: str) -> Version:
    """The first ``x.y.z`` in `text`, for example in the output of ``etcd --version``.

    Raises ValueError when there is none.
    """
    found = re.search(r"\b(\d+)\.(\d+)\.(\d+)", text)
    if found is None:
        raise ValueError(f"no version number in {text[:80]!r}")
    major, minor, patch = (int(part) for part in found.groups())
    return major, minor, patch
