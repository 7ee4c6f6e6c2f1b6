"""What the two planes write about themselves. Tooling may read all under ``data/`` and ``control/status/``.

Times are whole seconds since 1970 (UTC). Bytes stay bytes in MessagePack.
"""

from typing import Annotated, Literal

import msgspec

from schemas.objects.common import Label, Name, Port


class Record(msgspec.Struct, frozen=True, kw_only=True, rename="camel", tag_field="kind"):
    """Base of all records; `apiVersion` and `kind` are in each stored value."""

    api_version: Literal["mesh/v1"] = "mesh/v1"


class Endpoint(Record, frozen=True, kw_only=True, tag="Endpoint"):
    """A live instance of a service, under its sidecar's lease."""

    address: str
    """IPv4 or IPv6 address on which its sidecar takes mTLS."""
    ports: dict[Name, Port]
    """Service port name to the port on `address`."""
    labels: dict[Label, Label] = {}


class Nack(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A resource that Envoy refused, in Envoy's own words."""

    type_url: str
    resource: str
    message: str
    revision: int


class SidecarStatus(Record, frozen=True, kw_only=True, tag="SidecarStatus"):
    """What a sidecar last said of itself, under its lease."""

    service: Name
    namespace: Name
    instance: Name
    applied_revision: int
    """The newest configuration revision that was compiled and offered to Envoy."""
    acked_revision: int
    """The newest configuration revision whose every consequence Envoy has acked."""
    nacks: tuple[Nack, ...] = ()
    problems: tuple[str, ...] = ()
    """Objects that were quarantined or references that lead nowhere, one line each."""
    stale_since: int | None = None
    """Since when it has had no word from etcd; None while its watch is live."""
    svid_expires: int
    agent_version: str = ""
    envoy_version: str = ""


class Epoch(Record, frozen=True, kw_only=True, tag="Epoch"):
    """Written anew by each restore of etcd: a watcher that sees another one lists everything again."""

    id: str


class TrustBundle(Record, frozen=True, kw_only=True, tag="TrustBundle"):
    """The X.509 authorities of a trust domain; `sequence` grows with every change (SPIFFE bundle: spiffe_sequence)."""

    trust_domain: str
    sequence: int
    refresh_hint_seconds: int = 300
    x509_authorities: tuple[bytes, ...]
    """DER certificates."""


class SealedKey(Record, frozen=True, kw_only=True, tag="SealedKey"):
    """A CA key sealed with AES-256-GCM under a key-encryption key that never enters etcd."""

    id: str
    role: Literal["mesh-root", "mesh-issuing", "etcd-client"]
    state: Literal["prepared", "active", "retired"]
    chain: tuple[bytes, ...]
    """DER, own certificate first."""
    kek_id: str
    nonce: bytes
    sealed: bytes
    not_after: int

    def __repr__(self) -> str:
        return f"SealedKey(id={self.id!r}, role={self.role!r}, state={self.state!r}, sealed=[redacted])"


class JoinToken(Record, frozen=True, kw_only=True, tag="JoinToken"):
    """A join token. The token itself is never stored, only its hash."""

    id: str
    sha256: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
    namespace: Name
    service: Name
    expires: int
    created: int
    created_by: str
    used: int | None = None
    """When it was used; None: not yet."""
    used_by: str = ""

    def __repr__(self) -> str:
        return f"JoinToken(id={self.id!r}, service={self.service}.{self.namespace}, sha256=[redacted])"


class RequestRecord(Record, frozen=True, kw_only=True, tag="RequestRecord"):
    """The outcome of a write by its idempotency key, kept for as long as a client may ask again."""

    fingerprint: bytes
    """SHA-256 of the request: the same key with another request is refused."""
    revision: int | None = None
    """Unset in the stored value: the write's revision is the record's own mod revision."""


AnyRecord = Endpoint | SidecarStatus | Epoch | TrustBundle | SealedKey | JoinToken | RequestRecord
