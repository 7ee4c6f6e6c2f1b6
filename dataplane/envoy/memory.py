"""How much memory there is for us: of the host, or less where systemd or a container says so."""

import os
from collections.abc import Iterator
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


def own_memory() -> int:
    """Bytes. What can't be read bounds nothing."""
    host = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([host, *_limits(Path("/proc/self/cgroup"), _CGROUPS)])


def _limits(membership: Path, mounted: Path) -> Iterator[int]:
    """`MemoryMax=` of each cgroup (v2) that we are in, from ours upwards."""
    try:
        line = next(one for one in membership.read_text().splitlines() if one.startswith("0::"))
    except (OSError, StopIteration):
        return
    group = mounted / line.removeprefix("0::").lstrip("/")
    for one in (group, *group.parents):
        if not one.is_relative_to(mounted):
            return
        try:
            limit = (one / "memory.max").read_text().strip()
        except OSError:
            continue
        if limit.isdigit():
            yield int(limit)
