"""YAML text from people -> plain values, with the line of each. Bounded, so that no text can exhaust us.

Built on libyaml's events. Scalars follow the YAML 1.2 core schema where 1.1 is known to surprise: ``no``, ``on``,
``2024-01-01``, ``12:30`` and ``010`` are strings; only true/false, decimal integers, decimal fractions and null are
anything else. Keys are always strings. Tags other than !!str, !!map and !!seq are refused.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from schemas.errors import Problem

Path = tuple[str | int, ...]

MAX_DEPTH = 64  # no object is nested deeper than 12; libyaml itself sets no bound
# Values in one document with every alias written out. An object of 512 KiB has fewer; nine lines of aliases to
# aliases ("billion laughs") have a thousand million.
MAX_NODES = 100_000

_NULL = frozenset(("", "~", "null", "Null", "NULL"))
_BOOL = {text: text.lower() == "true" for text in ("true", "True", "TRUE", "false", "False", "FALSE")}
_INT = re.compile(r"[-+]?(0|[1-9][0-9]{0,40})")
_FLOAT = re.compile(r"[-+]?[0-9]{1,40}\.[0-9]{0,40}([eE][-+][0-9]{1,3})?")
_STR_TAGS = frozenset(("!", "tag:yaml.org,2002:str"))
_MAP_TAGS = frozenset((None, "!", "tag:yaml.org,2002:map"))
_SEQ_TAGS = frozenset((None, "!", "tag:yaml.org,2002:seq"))


@dataclass(frozen=True, slots=True)
class YamlDocument:
    """One document: its plain value, its first line, and the line of each field and item by path."""

    value: Any
    line: int
    lines: Mapping[Path, int]

    def line_of(self, path: Path) -> int:
        """The line of the field at `path`, or of the nearest thing around it that stands in the text."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, self.line)


class _Refused(Exception):
    """`last`: not worth reading on, as libyaml's own cost grows with the square of the depth."""

    def __init__(self, line: int, message: str, remedy: str, *, last: bool = False) -> None:
        super().__init__(message)
        self.last = last
        self.line = line
        self.message = message
        self.remedy = remedy


def read_documents(text: str, source: str) -> tuple[list[YamlDocument], list[Problem]]:
    """Every sound document of a stream, empty ones left out, and what is wrong with the others.

    `source` names the file in the problems (``shop.yaml:3``, ``shop.yaml:3:7`` for syntax). Never raises for any text.
    """
    documents: list[YamlDocument] = []
    problems: list[Problem] = []
    try:
        text.encode()
    except UnicodeEncodeError as error:
        line = text.count("\n", 0, error.start) + 1
        return [], [Problem(f"{source}:{line}", "not UTF-8 text", remedy="save the file as UTF-8")]
    events = yaml.parse(text, Loader=yaml.CSafeLoader)
    try:
        for event in events:
            if not isinstance(event, yaml.DocumentStartEvent):
                continue
            reader = _Reader(events)
            try:
                first = next(events)
                value = reader.value(first, (), 1)
            except _Refused as refused:
                problems.append(Problem(f"{source}:{refused.line}", refused.message, remedy=refused.remedy))
                if refused.last:
                    break
                continue  # the loop above passes over the rest of this document
            problems += (Problem(f"{source}:{line}", message, remedy=remedy) for line, message, remedy in reader.found)
            if value is not None and not reader.found:
                documents.append(YamlDocument(value, _line(first), reader.lines))
    except yaml.YAMLError as error:
        problems.append(_syntax_problem(error, text, source))
    return documents, problems


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1


def _syntax_problem(error: yaml.YAMLError, text: str, source: str) -> Problem:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    if mark is not None:
        where = f"{source}:{mark.line + 1}:{mark.column + 1}"
    elif isinstance(position := getattr(error, "position", None), int):
        where = f"{source}:{text.count(chr(10), 0, position) + 1}"
    else:
        where = source
    said = [getattr(error, name, None) for name in ("context", "problem", "reason")]
    what = ", ".join(str(part) for part in said if part) or "it can't be read"
    return Problem(where, f"not YAML: {what}", remedy="mend the syntax at that place")


@dataclass(slots=True)
class _Reader:
    """Takes the events of one document. `found` collects what is wrong without making the rest unreadable."""

    events: Iterator[Any]
    lines: dict[Path, int] = field(default_factory=dict)
    found: list[tuple[int, str, str]] = field(default_factory=list)
    _anchors: dict[str, tuple[Any, int]] = field(default_factory=dict)
    """Name to value and its size in nodes."""
    _open: set[str] = field(default_factory=set)
    """Anchors whose value is still being read."""
    _nodes: int = 0

    def value(self, event: Any, path: Path, depth: int) -> Any:
        line = _line(event)
        if depth > MAX_DEPTH:
            raise _Refused(line, f"nested more than {MAX_DEPTH} deep", "no object is: check the brackets", last=True)
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event.anchor, line)
        before = self._nodes
        self._count(1, line)
        self.lines.setdefault(path, line)
        anchor = event.anchor
        if anchor is not None:
            self._open.add(anchor)
        if isinstance(event, yaml.ScalarEvent):
            value = self._scalar(event, line)
        elif isinstance(event, yaml.SequenceStartEvent):
            value = self._sequence(event, path, depth)
        else:
            value = self._mapping(event, path, depth)
        if anchor is not None:
            self._open.discard(anchor)
            self._anchors[anchor] = (value, self._nodes - before)
        return value

    def _count(self, nodes: int, line: int) -> None:
        self._nodes += nodes
        if self._nodes > MAX_NODES:
            raise _Refused(
                line,
                f"more than {MAX_NODES} values with all aliases written out",
                "use fewer aliases or several documents",
                last=True,
            )

    def _alias(self, name: str | None, line: int) -> Any:
        if name in self._open:
            raise _Refused(line, f"the alias *{name} stands inside of what it names", "write the value out")
        if name is None or name not in self._anchors:
            raise _Refused(line, f"the alias *{name} has no anchor &{name} before it", "write the value out")
        value, nodes = self._anchors[name]
        self._count(nodes, line)
        return value

    def _scalar(self, event: Any, line: int) -> Any:
        text: str = event.value
        if event.tag is not None and event.tag not in _STR_TAGS:
            self._refuse_tag(event.tag, line)
        if event.tag is not None or not event.implicit[0]:
            return text  # quoted, or said to be a string
        if text in _NULL:
            return None
        if text in _BOOL:
            return _BOOL[text]
        if _INT.fullmatch(text):
            return int(text)
        return float(text) if _FLOAT.fullmatch(text) else text

    def _sequence(self, event: Any, path: Path, depth: int) -> list[Any]:
        if event.tag not in _SEQ_TAGS:
            self._refuse_tag(event.tag, _line(event))
        items: list[Any] = []
        while not isinstance(item := next(self.events), yaml.SequenceEndEvent):
            items.append(self.value(item, (*path, len(items)), depth + 1))
        return items

    def _mapping(self, event: Any, path: Path, depth: int) -> dict[str, Any]:
        if event.tag not in _MAP_TAGS:
            self._refuse_tag(event.tag, _line(event))
        own: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        while not isinstance(key := next(self.events), yaml.MappingEndEvent):
            line = _line(key)
            if isinstance(key, yaml.ScalarEvent):
                name = key.value
            else:
                raise _Refused(line, "the key of a mapping is not a plain word", "write a string as the key")
            self.lines.setdefault((*path, name), line)
            value = self.value(next(self.events), (*path, name), depth + 1)
            if name == "<<" and key.implicit[0]:
                for part in reversed(value if isinstance(value, list) else [value]):
                    if not isinstance(part, dict):
                        raise _Refused(line, "'<<' takes a mapping or a list of mappings", "write the fields out")
                    merged.update(part)
            elif name in own:
                self.found.append((line, f"the key {name!r} stands twice in one mapping", "keep one of them"))
            else:
                own[name] = value
        return {**merged, **own}

    def _refuse_tag(self, tag: str, line: int) -> None:
        self.found.append((line, f"the tag {tag!r} is not supported", "write the plain value"))
