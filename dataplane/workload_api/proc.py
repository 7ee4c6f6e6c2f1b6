"""What Linux says of a process, from the text of its files in /proc (proc_pid_stat(5), cgroups(7)). Pure."""

from dataclasses import dataclass

_UNIT_SUFFIXES = (".service", ".scope")  # the units of systemd that hold processes


class Unreadable(ValueError):
    """Not what the kernel writes."""


@dataclass(frozen=True, slots=True)
class Ids:
    """User and group ids: real, effective, saved, filesystem; and the supplementary groups."""

    uids: tuple[int, int, int, int]
    gids: tuple[int, int, int, int]
    groups: frozenset[int]


def start_ticks(stat: str) -> int:
    """Of ``/proc/<pid>/stat``, in clock ticks since boot; the same pid with another start is another process."""
    # The name stands in parentheses and may hold anything, so count from the last one.
    fields = stat.rpartition(")")[2].split()
    try:
        return int(fields[19])
    except (IndexError, ValueError) as error:
        raise Unreadable("stat has no start time") from error


def ids(status: str) -> Ids:
    """Of ``/proc/<pid>/status``."""
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    try:
        uids, gids = (tuple(map(int, fields[name].split())) for name in ("Uid", "Gid"))
        real, effective, saved, filesystem = uids
        group, effective_group, saved_group, filesystem_group = gids
        groups = frozenset(map(int, fields["Groups"].split()))
    except (KeyError, ValueError) as error:
        raise Unreadable("status has no ids") from error
    return Ids((real, effective, saved, filesystem), (group, effective_group, saved_group, filesystem_group), groups)


def unit(cgroup: str) -> str | None:
    """The unit of the system's systemd, of ``/proc/<pid>/cgroup``; None: in none.

    The topmost service or scope of the path: below it, names are chosen by whom the cgroup was delegated to, such as
    the user's own manager in ``user@1000.service``.
    """
    paths = {}
    for line in cgroup.splitlines():
        hierarchy, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        paths[hierarchy, controllers] = path
    path = paths.get(("0", ""), "")
    if path in ("", "/"):  # a host that still has the first version of cgroups
        path = next((one for (_, controllers), one in paths.items() if controllers == "name=systemd"), path)
    for component in path.split("/"):
        if component == "..":  # outside of our own cgroup namespace: nothing is known of it
            return None
        if component.endswith(_UNIT_SUFFIXES):
            return component
    return None
