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
    svid_issuer: str = ""
    """Authority key identifier (hex) of the leaf that Envoy presents; empty: not known."""
    trust_sequence: int = 0
    """Sequence of the newest trust bundle that Envoy and the agent both trust by; 0: not known."""
    agent_version: str = ""
    envoy_version: str = ""


class Epoch(Record, frozen=True, kw_only=True, tag="Epoch"):
    """Written anew by each restore of etcd: a watcher that sees another one lists everything again."""

    id: str


class JwtAuthority(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A public key that verifies JWT-SVIDs."""

    kid: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    public_key: bytes
    """DER, SubjectPublicKeyInfo."""
    not_after: int | None = None
    """No token signed with it is good any longer than until then; None: its publisher does not say."""


class TrustBundle(Record, frozen=True, kw_only=True, tag="TrustBundle"):
    """What verifies the SVIDs of a trust domain; `sequence` grows with every change (SPIFFE bundle: spiffe_sequence)."""

    trust_domain: str
    sequence: int
    refresh_hint_seconds: int = 300
    x509_authorities: tuple[bytes, ...]
    """DER certificates."""
    issuing_key_id: str = ""
    """Authority key identifier (hex) of what is issued now: whose leaf names another renews soon. Empty: not said."""
    jwt_authorities: tuple[JwtAuthority, ...] = ()


class SealedKey(Record, frozen=True, kw_only=True, tag="SealedKey"):
    """A CA key sealed with AES-256-GCM under a key-encryption key that never enters etcd.

    A key whose certificate has yet to come from an external CA has no `chain`; an external root has no `sealed`.
    """

    id: str
    role: Literal["mesh-root", "mesh-issuing", "etcd-client", "mesh-jwt"]
    state: Literal["prepared", "active", "retired"]
    chain: tuple[bytes, ...]
    """DER, own certificate first; empty for `mesh-jwt`, a bare key."""
    kek_id: str
    nonce: bytes
    sealed: bytes
    not_after: int
    """0 without a certificate."""
    since: int = 0
    """When it came into this state; 0: not known, long ago."""
    signed_by: str = ""
    """Id of the root above an issuing key; empty: of the only root there was."""
    trust_sequence: int = 0
    """Sequence of the first trust bundle that contained it."""
    leaf_seconds: int = 7 * 24 * 3600
    """Nothing that it signs lives longer: what it has signed is known to have ended that long after its retirement."""
    forced: tuple[str, ...] = ()
    """Steps that were taken although their gate was closed: what, who, when, and whom it left behind."""

    def __repr__(self) -> str:
        return f"SealedKey(id={self.id!r}, role={self.role!r}, state={self.state!r}, sealed=[redacted])"


class Rotation(Record, frozen=True, kw_only=True, tag="Rotation"):
    """A rotation that is under way; there is at most one. Replicas take its steps as the gates open."""

    id: str
    what: str
    """For people: ``root and issuing``, ``issuing``."""
    replaces: tuple[str, ...]
    """Ids of the keys that are to be gone when it ends."""
    started: int
    by: str
    """Who asked for it; ``automatic``."""
    force: bool = False
    """Steps are taken although sidecars hold them back."""


class ReplicaStatus(Record, frozen=True, kw_only=True, tag="ReplicaStatus"):
    """What a replica last said of itself: written anew every minute and at each change."""

    id: str
    seen: int
    trust_sequence: int
    """Of the bundle that it trusts its callers by."""
    issuing_key_id: str
    """Authority key identifier (hex) of what it issues."""
    issuing_since: int
    """Since when it has issued with that key."""
    svid_expires: int
    """Of the certificate that it serves with."""
    kek_ids: tuple[str, ...] = ()
    """The key-encryption keys that it can open CA keys with."""


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


AnyRecord = (
    Endpoint | SidecarStatus | Epoch | TrustBundle | SealedKey | Rotation | ReplicaStatus | JoinToken | RequestRecord
)
