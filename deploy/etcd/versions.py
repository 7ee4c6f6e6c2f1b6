"""What is known about etcd versions whose access control does not hold. Pure: no IO.

The mesh gives every sidecar a read-only etcd user, so a hole in etcd's own authorization is a hole in the mesh.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

Version = tuple[int, int, int]
"""(major, minor, patch)"""

NO_AUTH_BYPASS: Version = (3, 5, 30)
"""Oldest 3.5 release in which a read-only user can neither write nor read past its grant inside a transaction."""

# First fixed release of each line: (major, minor) -> version. A line below the first one named was never fixed for
# our use; a line above the last one began after the fix.
_AUTH_BYPASS_FIXED: dict[tuple[int, int], Version] = {(3, 5): NO_AUTH_BYPASS, (3, 6): (3, 6, 11)}
_WATCH_LEAK_FIXED: dict[tuple[int, int], Version] = {(3, 5): (3, 5, 33), (3, 6): (3, 6, 14), (3, 7): (3, 7, 1)}

AUTH_BYPASS = (
    "a read-only user can write, and read every key, through nested transactions "
    "(GHSA-rfx7-8w68-q57q, and GHSA-x35m-3gp4-4fh5 for previous values and leases)"
)
WATCH_LEAK = (
    "a user who may read any key can watch every key that sorts after it (GHSA-xg4h-6gfc-h4m8); "
    "the mesh's key order keeps secrets out of that range, but production should run a fixed release"
)


@dataclass(frozen=True)
class VersionReport:
    """What is known about one version. Both texts are empty for a version with no known hole."""

    refuse: str
    warn: str


def parse_version(text: str) -> Version:
    """The first ``x.y.z`` in `text`, for example in the output of ``etcd --version``.

    Raises ValueError when there is none.
    """
    found = re.search(r"\b(\d+)\.(\d+)\.(\d+)", text)
    if found is None:
        raise ValueError(f"no version number in {text[:80]!r}")
    major, minor, patch = (int(part) for part in found.groups())
    return major, minor, patch


def format_version(version: Version) -> str:
    return ".".join(str(part) for part in version)


def judge(version: Version) -> VersionReport:
    """Known holes of `version`: `refuse` makes access control worthless, `warn` weakens it."""
    return VersionReport(
        refuse=_unless_fixed(version, _AUTH_BYPASS_FIXED, AUTH_BYPASS),
        warn=_unless_fixed(version, _WATCH_LEAK_FIXED, WATCH_LEAK),
    )


def _unless_fixed(version: Version, fixed: dict[tuple[int, int], Version], hole: str) -> str:
    line = version[:2]
    if line > max(fixed) or (line in fixed and version >= fixed[line]):
        return ""
    releases = ", ".join(format_version(release) for release in fixed.values())
    return f"etcd {format_version(version)}: {hole}; fixed in {releases}"
