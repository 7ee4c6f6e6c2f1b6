"""Which etcd versions are good enough for a mesh that leans on etcd's access control. Pure.

Every sidecar holds a read-only etcd user, so a hole in etcd's authorization is a hole in the mesh.
"""

from dataclasses import dataclass

Version = tuple[int, int, int]
"""(major, minor, patch)"""

NO_AUTH_BYPASS: Version = (3, 5, 30)
"""Oldest 3.5 release in which a read-only user can neither write nor read past its grant inside a transaction."""

# First fixed release of each line. A line below the first named one was never fixed; one above the last began fixed.
_AUTH_BYPASS_FIXED: dict[tuple[int, int], Version] = {(3, 5): NO_AUTH_BYPASS, (3, 6): (3, 6, 11)}
_WATCH_LEAK_FIXED: dict[tuple[int, int], Version] = {(3, 5): (3, 5, 33), (3, 6): (3, 6, 14), (3, 7): (3, 7, 1)}

_AUTH_BYPASS = (
    "a read-only user can write, and read every key, through nested transactions (GHSA-rfx7-8w68-q57q, and "
    "GHSA-x35m-3gp4-4fh5 for previous values and leases)"
)
_WATCH_LEAK = (
    "a user who may read any key can watch every key that sorts after it (GHSA-xg4h-6gfc-h4m8); the mesh's key order "
    "keeps secrets out of that range, but production should run a fixed release"
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """`refuse`: why access control is worthless in this version; `warn`: what weakens it. Empty: nothing known."""

    refuse: str
    warn: str


def judge(version: Version) -> Verdict:
    return Verdict(
        _unless_fixed(version, _AUTH_BYPASS_FIXED, _AUTH_BYPASS), _unless_fixed(version, _WATCH_LEAK_FIXED, _WATCH_LEAK)
    )


def _unless_fixed(version: Version, fixed: dict[tuple[int, int], Version], hole: str) -> str:
    line = version[:2]
    if line > max(fixed) or (line in fixed and version >= fixed[line]):
        return ""
    releases = ", ".join(format_version(release) for release in fixed.values())
    return f"etcd {format_version(version)}: {hole}; fixed in {releases}"


def format_version(version: Version) -> str:
    return ".".join(map(str, version))
