"""[edge] Files, directories and standard input -> objects."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from schemas import codec
from schemas.codec import Document
from schemas.errors import InvalidInput, Problem

SUFFIXES = (".yaml", ".yml", ".json")
# One change set is one transaction of at most 1.5 MiB; more text than this in one file is another kind of file.
MAX_FILE_BYTES = 16 << 20


def load(paths: Sequence[str], *, recursive: bool = False) -> list[Document]:
    """All objects of files, of directories (every file with one of `SUFFIXES`) and of standard input (``-``).

    Raises InvalidInput with every problem of every file; an object may stand only once in all of them.
    """
    documents: list[Document] = []
    problems: list[Problem] = []
    for path in paths:
        try:
            for text, source in _texts(path, recursive):
                try:
                    documents += codec.load_yaml(text, source)
                except InvalidInput as error:
                    problems += error.problems
        except InvalidInput as error:
            problems += error.problems
    problems += _repeated(documents)
    if problems:
        raise InvalidInput(*problems)
    if not documents:
        raise InvalidInput(
            Problem(", ".join(paths), "no object in it", remedy="objects start with apiVersion and kind")
        )
    return documents


def text_of(path: str) -> str:
    """Of one file, or of standard input (``-``). Raises InvalidInput."""
    found = list(_texts(path, recursive=False))
    if len(found) != 1:
        raise InvalidInput(Problem(path, "is a directory", remedy="name a file"))
    return found[0][0]


def _repeated(documents: Iterable[Document]) -> Iterator[Problem]:
    first: dict[object, str] = {}
    for document in documents:
        ref = document.object.ref
        before = first.setdefault(ref, document.source)
        if before != document.source:
            yield Problem(document.source, f"{ref} stands here a second time, first at {before}", remedy="keep one")


def _texts(path: str, recursive: bool) -> Iterator[tuple[str, str]]:
    if path == "-":
        yield _decoded(_bounded(sys.stdin.buffer, "standard input"), "standard input"), "standard input"
        return
    start = Path(path)
    files = sorted(_files_in(start, recursive)) if start.is_dir() else [start]
    if not files:
        remedy = "add one, or use -R for those in its directories"
        raise InvalidInput(Problem(path, f"no file in it that ends in {', '.join(SUFFIXES)}", remedy=remedy))
    for file in files:
        try:
            with open(file, "rb") as opened:
                data = _bounded(opened, str(file))
        except OSError as error:
            raise InvalidInput(Problem(str(file), f"can't be read: {error.strerror}")) from error
        yield _decoded(data, str(file)), str(file)


def _files_in(directory: Path, recursive: bool) -> Iterator[Path]:
    for found in directory.rglob("*") if recursive else directory.iterdir():
        if found.suffix in SUFFIXES and found.is_file():
            yield found


def _bounded(stream: BinaryIO, source: str) -> bytes:
    data = stream.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise InvalidInput(Problem(source, f"more than {MAX_FILE_BYTES >> 20} MiB", remedy="split it"))
    return data


def _decoded(data: bytes, source: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InvalidInput(Problem(f"{source}:{line}", "not UTF-8 text", remedy="save it as UTF-8")) from error
