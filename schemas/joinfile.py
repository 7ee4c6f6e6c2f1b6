"""The files that lead to a mesh: a host's join file and an operator's login file. `meshadm token create` writes them.

A join file without a token says where hosts join and how they know a replica, and nothing of it is secret: it is for
hosts that show a certificate of their own (`meshadm attestor join-file`).
"""

from typing import Literal, TypeVar

import msgspec

from schemas.errors import InvalidInput, Problem


class JoinFile(msgspec.Struct, frozen=True, kw_only=True, rename="camel", tag="JoinFile", tag_field="kind"):
    """JSON with base64 for bytes. Secret for as long as its token is unused."""

    api_version: Literal["mesh/v1"] = "mesh/v1"
    trust_domain: str
    namespace: str = ""
    service: str = ""
    """What the token is for; ``*``: the host chooses a service of the namespace. Both empty without a token."""
    token: str = ""
    expires: int = 0
    """Of the token, in seconds since 1970."""
    join_endpoints: tuple[str, ...]
    """host:port of replicas, TLS without a client certificate."""
    api_endpoints: tuple[str, ...]
    """host:port of replicas, mTLS."""
    trust_bundle: bytes
    """A TrustBundle record: how the sidecar knows a replica before it has an identity of its own."""

    def __repr__(self) -> str:
        return f"JoinFile(service={self.service}.{self.namespace}, token=[redacted])"


class LoginFile(msgspec.Struct, frozen=True, kw_only=True, rename="camel", tag="LoginFile", tag_field="kind"):
    """For `meshadm login`. Secret for as long as its token is unused."""

    api_version: Literal["mesh/v1"] = "mesh/v1"
    trust_domain: str
    operator: str
    token: str
    expires: int
    """Seconds since 1970."""
    join_endpoints: tuple[str, ...]
    api_endpoints: tuple[str, ...]
    trust_bundle: bytes

    def __repr__(self) -> str:
        return f"LoginFile(operator={self.operator}, token=[redacted])"


FileType = TypeVar("FileType", JoinFile, LoginFile)


def load(data: bytes, source: str) -> JoinFile:
    """Raises InvalidInput, naming `source`."""
    return _load(data, JoinFile, source, "a join file")


def load_login(data: bytes, source: str) -> LoginFile:
    """Raises InvalidInput, naming `source`."""
    return _load(data, LoginFile, source, "a login file")


def _load(data: bytes, type_: type[FileType], source: str, what: str) -> FileType:
    try:
        return msgspec.json.decode(data, type=type_)
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        problem = Problem(source, f"not {what}: {reason}", remedy="make a new one with `meshadm token create`")
        raise InvalidInput(problem) from error


def dump(value: JoinFile | LoginFile) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"
