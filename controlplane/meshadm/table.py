"""A table and the forms of small values in it. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Row = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Table:
    columns: Row
    rows: tuple[Row, ...]
    empty: str
    """What to say where there is no row."""


def printable(text: str) -> str:
    """`text` on one line, and without what a terminal would act on: values come from etcd, where others write too."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def joined(values: Iterable[object], most: int = 4) -> str:
    """``a, b, c`` with the rest counted; ``-`` for none."""
    words = [str(value) for value in values]
    more = f", +{len(words) - most} more" if len(words) > most else ""
    return ", ".join(words[:most]) + more if words else "-"


def duration(seconds: float) -> str:
    """``45s``, ``12m``, ``3h05m``, ``4d``: two figures are enough to act on."""
    whole = int(abs(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m"
    if whole < 48 * 3600:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d"


def count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def widths(table: Table) -> Sequence[int]:
    return [max(len(line[index]) for line in (table.columns, *table.rows)) for index in range(len(table.columns))]


def lines(table: Table) -> list[str]:
    """The table as text, columns aligned, no blanks at the end of a line; what `empty` says where it has no rows."""
    if not table.rows:
        return [table.empty]
    sizes = widths(table)
    return [
        "  ".join(cell.ljust(size) for cell, size in zip(line, sizes, strict=True)).rstrip()
        for line in (table.columns, *table.rows)
    ]
