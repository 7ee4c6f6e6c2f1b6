"""All that some app may take a request target for: what frameworks do to paths, in any order, as often as you like."""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes


def readings(target: bytes) -> set[str]:
    """The paths that `target` may be read as; at least as it is."""
    found = {target.decode("latin-1").partition("?")[0].partition("#")[0]}
    fresh = set(found)
    while fresh:
        fresh = {step(one) for one in fresh for step in _STEPS} - found
        found |= fresh
    return found


def _unescaped(path: str) -> str:
    return unquote_to_bytes(path.encode("latin-1")).decode("latin-1")


def _without_parameters(path: str) -> str:
    return re.sub(r";[^/]*", "", path)


def _resolved(path: str) -> str:
    kept: list[str] = []
    for segment in path.split("/")[1:]:
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    return "/" + "/".join(kept)


def _merged(path: str) -> str:
    return re.sub(r"//+", "/", path)


def _other_slashes(path: str) -> str:
    return path.replace("\\", "/")


def _ended(path: str) -> str:
    """By C strings."""
    return path.partition("\0")[0] or "/"


def _from_the_slash(path: str) -> str:
    return path if path.startswith("/") else f"/{path}"


_STEPS = (_unescaped, _without_parameters, _resolved, _merged, _other_slashes, _ended, _from_the_slash)
