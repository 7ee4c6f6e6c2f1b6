"""The join file: all that a host needs to become a sidecar of one service. `meshadm token create` writes it."""

from typing import Literal

import msgspec

from schemas.errors import InvalidInput, Problem


class JoinFile(msgspec.Struct, frozen=True, kw_only=True, rename="camel", tag="JoinFile", tag_field="kind"):
    """JSON with base64 for bytes. Secret for as long as its token is unused."""

    api_version: Literal["mesh/v1"] = "mesh/v1"
    trust_domain: str
    namespace: str
    service: str
    token: str
    expires: int
    """Seconds since 1970."""
    join_endpoints: tuple[str, ...]
    """host:port of replicas, TLS without a client certificate."""
    api_endpoints: tuple[str, ...]
    """host:port of replicas, mTLS."""
    trust_bundle: bytes
    """A TrustBundle record: how the sidecar knows a replica before it has an identity of its own."""

    def __repr__(self) -> str:
        return f"JoinFile(service={self.service}.{self.namespace}, token=[redacted])"


def load(data: bytes, source: str) -> JoinFile:
    """Raises InvalidInput, naming `source`."""
    try:
        return msgspec.json.decode(data, type=JoinFile)
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        problem = Problem(source, f"not a join file: {reason}", remedy="make a new one with `meshadm token create`")
        raise InvalidInput(problem) from error


def dump(value: JoinFile) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"
