"""A request as Envoy's routes see it: after the connection manager has normalised its path. Pure."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

from schemas.errors import InvalidInput, Problem

_UNRESERVED = re.compile(r"%(2[dDeE]|3[0-9]|4[1-9a-fA-F]|5[0-9aAfF]|6[1-9a-fA-F]|7[0-9aAeE])")


@dataclass(frozen=True, slots=True)
class Request:
    """`host` in lower case, without port. `path` normalised, without query. Header names in lower case."""

    host: str
    method: str = "GET"
    path: str = "/"
    query: tuple[tuple[str, str], ...] = ()
    headers: tuple[tuple[str, str], ...] = ()

    def header(self, name: str) -> str | None:
        """All lines of that name, joined by commas as Envoy does; None where there is none."""
        found = [value for key, value in self.headers if key == name.lower()]
        return ",".join(found) if found else None

    def parameter(self, name: str) -> str | None:
        """The first of that name."""
        return next((value for key, value in self.query if key == name), None)

    @property
    def is_grpc(self) -> bool:
        kind = self.header("content-type") or ""
        return kind == "application/grpc" or kind.startswith("application/grpc+")


@dataclass(frozen=True, slots=True)
class Address:
    """What a URL names, apart from the request: `port` None where it names none."""

    host: str
    port: int | None


def parse_url(
    method: str, url: str, headers: Iterable[tuple[str, str]] = (), *, outside: bool = False
) -> tuple[Address, Request]:
    """``http://orders.shop:8080/a?b=c``, or without scheme. Raises InvalidInput, also for what Envoy refuses.

    outside: as a client of a gateway asks, who names its port or means that of the scheme.
    """
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        port = parts.port
    except ValueError as error:
        raise _bad(url, str(error)) from error
    if outside and parts.scheme in ("http", "https"):
        port = port or (443 if parts.scheme == "https" else 80)
    elif parts.scheme not in ("http", "grpc"):
        raise _bad(url, f"the scheme {parts.scheme!r}: inside of the mesh apps speak http to their sidecar")
    if not parts.hostname:
        raise _bad(url, "it names no host")
    if parts.fragment:
        raise _bad(url, "a fragment (#) is never sent")
    named = tuple((name.lower(), value) for name, value in headers)
    host = next((value for name, value in named if name == "host"), parts.netloc.rpartition("@")[2])
    request = Request(
        host=host_of(host),
        method=method.upper(),
        path=normalised(parts.path or "/", url),
        query=tuple(parse_qsl(parts.query, keep_blank_values=True)),
        headers=tuple((name, value) for name, value in named if name != "host"),
    )
    return Address(parts.hostname, port), request


def host_of(authority: str) -> str:
    """``Orders.Shop:8080`` -> ``orders.shop``."""
    return re.sub(r":[0-9]*\Z", "", authority).lower()


def normalised(path: str, url: str = "") -> str:
    """As Envoy's `normalize_path` and `merge_slashes` leave it. Raises InvalidInput for an escaped slash."""
    if re.search(r"%(2[fF]|5[cC]|00)", path):
        raise _bad(url or path, "an escaped slash or NUL in the path: sidecars answer 400 to that")
    path = _UNRESERVED.sub(lambda match: chr(int(match[1], 16)), path).replace("\\", "/")
    path = re.sub(r"/{2,}", "/", path)
    kept: list[str] = []
    segments = path.split("/")[1:]
    for index, segment in enumerate(segments):
        if segment == "..":
            if not kept:
                continue
            kept.pop()
        elif segment != ".":
            kept.append(segment)
            continue
        if index == len(segments) - 1:
            kept.append("")
    return "/" + "/".join(kept)


def _bad(url: str, why: str) -> InvalidInput:
    return InvalidInput(Problem(f"URL {url[:200]!r}", why, remedy="write http://<service>.<namespace>[:port]/path"))
