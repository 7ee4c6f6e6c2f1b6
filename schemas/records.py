"""What the two planes write about themselves. Tooling may read all under ``data/`` and ``control/status/``.

Times are whole seconds since 1970 (UTC). Bytes stay bytes in MessagePack.
"""

from typing import Annotated, Literal

import msgspec

from schemas.log_levels import MAX_SECONDS, MIN_SECONDS, LogLevels
from schemas.names import NAME_PATTERN
from schemas.objects.common import Label, Name, Port


class Record(msgspec.Struct, frozen=True, kw_only=True, rename="camel", tag_field="kind"):
    """Base of all records; `apiVersion` and `kind` are in each stored value."""

    api_version: Literal["mesh/v1"] = "mesh/v1"


class Locality(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Where a host stands. Empty: not said."""

    region: Label = ""
    zone: Label = ""
    """Unique within its region."""


class Endpoint(Record, frozen=True, kw_only=True, tag="Endpoint"):
    """A live instance of a service, under its sidecar's lease."""

    address: str
    """IPv4 or IPv6 address on which its sidecar takes mTLS."""
    ports: dict[Name, Port]
    """Service port name to the port on `address`."""
    labels: dict[Label, Label] = {}
    locality: Locality = Locality()


class Nack(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A resource that Envoy refused, in Envoy's own words."""

    type_url: str
    resource: str
    message: str
    revision: int


class PlaintextSource(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Who was seen, by the address of its host."""

    address: str
    last_seen: int


class PlaintextPort(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A port of the Service that takes plaintext at this sidecar, and who came in it."""

    port: Port
    since: int
    """Since when anybody looks; what came before is not known."""
    last_seen: int | None = None
    """Some seconds old while somebody sends on and on; None: nobody was seen."""
    signs: int = 0
    """Requests and connections that were seen to begin, and one a second of what lasts."""
    counted: int = 0
    """What Envoy's own counter of them said then. It begins anew with each Envoy."""
    sources: tuple[PlaintextSource, ...] = ()
    """The latest ones, latest first."""


Milliseconds = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]


class OpenStreams(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What becomes of what is open at a sidecar when a change no longer allows it."""

    bound_ms: Milliseconds
    """It ends within that time of the put in etcd, or of when the sidecar hears of that; 0: it can't be ended."""
    passed_bound_ms: Milliseconds = 0
    """The same where bytes are passed on and the peer may still do something at the port, for it is the port that
    changes then; 0: the sidecar has no such port."""
    problem: str = ""
    """Why it can't be ended, and what to change."""

    @property
    def goes_on(self) -> bool:
        """Whether it can't be ended."""
        return not self.bound_ms

    def __str__(self) -> str:
        """``ends within 2 s``, ``goes on: `` and why."""
        if self.goes_on:
            return f"goes on: {self.problem or 'the sidecar does not say why'}"
        passed = f", where bytes are passed on within {self.passed_bound_ms / 1000:g} s" if self.passed_bound_ms else ""
        return f"ends within {self.bound_ms / 1000:g} s{passed}"


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
    log_levels: LogLevels | None = None
    """What it logs for a time; None: as its settings say."""
    app_health: str = ""
    """``healthy``, or ``unhealthy: `` and why: then the instance is not in discovery. Empty: the app is not checked."""
    agent_version: str = ""
    envoy_version: str = ""
    plaintext: tuple[PlaintextPort, ...] = ()
    """Of each port that takes plaintext; a port that is missing here takes none, or nobody can look."""
    open_streams: OpenStreams | None = None
    """None: not said, as by versions that knew nothing of it."""


class SilentSidecar(Record, frozen=True, kw_only=True, tag="SilentSidecar"):
    """What a replica remembers of a sidecar that fell silent: its Envoy may serve on without it."""

    until: int
    """Seconds since 1970: by then whatever certificate it had has ended."""
    trust_sequence: int
    """Of the trust bundle that it last said it trusts by; 0: not known."""
    address: str = ""
    """Where it was in discovery: who speaks under its name from there is the same host. Empty: it was not."""


class LogLevel(Record, frozen=True, kw_only=True, tag="LogLevel"):
    """What one sidecar is to log for a time; the key ends some time after it."""

    namespace: Name
    service: Name
    instance: Name
    levels: LogLevels
    seconds: Annotated[int, msgspec.Meta(ge=MIN_SECONDS, le=MAX_SECONDS)]
    """For how long: a sidecar whose clock is wrong holds to that."""
    at: int
    by: str


class Epoch(Record, frozen=True, kw_only=True, tag="Epoch"):
    """Written anew by each restore of etcd: a watcher that sees another one lists everything again."""

    id: str


class Beacon(Record, frozen=True, kw_only=True, tag="Beacon"):
    """A replica's own count, which only grows: one below what the replica remembers shows that etcd was restored."""

    replica: str
    count: Annotated[int, msgspec.Meta(ge=1, le=2**62)]


class Outage(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A time in which no replica could issue anything."""

    start: int
    """When one last said that it could."""
    end: int
    """When one said so again."""


class IssuingTimes(Record, frozen=True, kw_only=True, tag="IssuingTimes"):
    """When issuing was possible; every few seconds one of the replicas brings it up to date."""

    epoch: str
    """Of the store it was begun in: what a backup says of the time before it was restored is worth nothing."""
    seen: int
    """When a replica last could issue."""
    outages: tuple[Outage, ...] = ()
    """Oldest first; the oldest are dropped."""


class ExcusedLeaf(Record, frozen=True, kw_only=True, tag="ExcusedLeaf"):
    """An SVID that was renewed after its end, since nobody could before: each is, once."""

    identity: str
    at: int
    by: str
    key: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
    """SHA-256 of the public key (DER, SubjectPublicKeyInfo) that it was renewed for: who asks again after a lost answer
    is known by it."""


class Revocation(Record, frozen=True, kw_only=True, tag="Revocation"):
    """Whether a workload's identity is revoked. Of two that are known the one with the higher serial is true.

    Kept when the identity is restored, and put back when it is missing: an older backup of etcd undoes nothing.
    """

    namespace: Name
    service: Name
    serial: Annotated[int, msgspec.Meta(ge=1, le=2**62)]
    """Above every earlier one of the identity, and at least the second in which it was made."""
    revoked: bool
    at: int
    by: str
    reason: str = ""


class JwtAuthority(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A public key that verifies JWT-SVIDs."""

    kid: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    public_key: bytes
    """DER, SubjectPublicKeyInfo."""
    not_after: int | None = None
    """No token signed with it is good any longer than until then; None: its publisher does not say."""


class TrustBundle(Record, frozen=True, kw_only=True, tag="TrustBundle"):
    """What verifies the SVIDs of a trust domain; `sequence` grows with every change, as spiffe_sequence."""

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


class CertificateFile(msgspec.Struct, frozen=True, forbid_unknown_fields=False):
    """A certificate on a host that nothing of the mesh renews. Seconds since 1970."""

    path: str
    not_before: int
    not_after: int


class ReplicaStatus(Record, frozen=True, kw_only=True, tag="ReplicaStatus"):
    """What a replica last said of itself: written anew every minute and at each change."""

    id: str
    name: str
    """For people: host and address."""
    seen: int
    trust_sequence: int
    """Of the bundle that it trusts its callers by."""
    issuing_key_id: str
    """Authority key identifier (hex) of what it issues."""
    issuing_since: int
    """Since when it has issued with that key; 0: it never did with another."""
    svid_expires: int
    """Of the certificate that it serves with."""
    kek_ids: tuple[str, ...] = ()
    """The key-encryption keys that it can open CA keys with."""
    serves_bundle: bool = False
    """It has a bundle endpoint: other trust domains may follow ours."""
    files: tuple[CertificateFile, ...] = ()
    """Those that it uses, which somebody else has to renew."""


class FederationStatus(Record, frozen=True, kw_only=True, tag="FederationStatus"):
    """How it goes with following another trust domain's bundle: written by a replica at each attempt."""

    trust_domain: str
    object_revision: int = 0
    """Mod revision of the TrustBundle object that it goes by; 0: not fetched since the last start."""
    seed: bytes = b""
    """SHA-256 of the bundle in the object that it started from; empty: of none."""
    served_sequence: int | None = None
    """spiffe_sequence of the newest document; None: it had none."""
    tried: int = 0
    """Last attempt; 0: none yet."""
    fetched: int = 0
    """Last success; 0: none yet."""
    problem: str = ""
    """Why the last attempt failed; empty: it did not."""
    next: int = 0
    """When the next attempt is due."""
    by: str = ""
    """The replica that wrote it."""


CaDigest = Annotated[bytes, msgspec.Meta(max_length=32)]


class KeySet(Record, frozen=True, kw_only=True, tag="KeySet"):
    """The public keys of an issuer of tokens, fetched by a replica; written anew when they have changed."""

    uri: str
    ca_sha256: CaDigest = b""
    """Of the PEM certificates by which its server was believed; empty: those of the replica's host."""
    fetched: int
    """When these keys were first seen there."""
    jwks: str
    """A JWKS document (RFC 7517), of nothing but keys that verify tokens."""


class KeySetStatus(Record, frozen=True, kw_only=True, tag="KeySetStatus"):
    """How it goes with fetching an issuer's keys: written by a replica at each attempt."""

    uri: str
    ca_sha256: CaDigest = b""
    tried: int = 0
    """Last attempt; 0: none yet."""
    fetched: int = 0
    """Last success; 0: none yet."""
    failures: int = 0
    """Attempts that failed since."""
    problem: str = ""
    """Why the last one did; empty: it did not."""
    next: int = 0
    """When the next attempt is due, for what refreshes as often as the object did that it was made for."""
    by: str = ""
    """The replica that wrote it."""


# A service by name, or "*" for any of its namespace (schemas/selectors.py).
ServiceOrAny = Annotated[str, msgspec.Meta(pattern=rf"^({NAME_PATTERN}|\*)\Z", description="a name, or *")]
OperatorRole = Literal["viewer", "editor", "admin"]


class TokenUse(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One use of a token: when, from where, and what was issued for it."""

    at: int
    by: str
    identity: str = ""
    id: str = ""
    """Unique: by it a replica knows its own use again when etcd's answer was lost."""


class Token(Record, frozen=True, kw_only=True):
    """What a join token and a login token have in common. The token itself is never stored, only its hash."""

    id: str
    sha256: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
    epoch: str
    """Of the store it was made in: after a restore nobody knows whether it was used meanwhile, so it counts as used."""
    expires: int
    created: int
    created_by: str
    uses: Annotated[int, msgspec.Meta(ge=1)] = 1
    """How often it may be used; `used` says how often it was."""
    used: tuple[TokenUse, ...] = ()
    revoked: int | None = None
    revoked_by: str = ""

    @property
    def bound_to(self) -> str:
        raise TypeError("a token of no kind")

    def __repr__(self) -> str:
        return f"{type(self).__name__}(id={self.id!r}, bound_to={self.bound_to!r}, sha256=[redacted])"


class JoinToken(Token, frozen=True, kw_only=True, tag="JoinToken"):
    """Lets hosts become sidecars of a service, or of any service of a namespace."""

    namespace: Name
    service: ServiceOrAny

    @property
    def bound_to(self) -> str:
        return f"{self.namespace}/{self.service}"

    __repr__ = Token.__repr__


class LoginToken(Token, frozen=True, kw_only=True, tag="LoginToken"):
    """Lets an operator log in."""

    operator: Name

    @property
    def bound_to(self) -> str:
        return f"operator/{self.operator}"

    __repr__ = Token.__repr__


class Operator(Record, frozen=True, kw_only=True, tag="Operator"):
    """What an operator may do. It is here and not in the certificate, so that a change takes effect at once."""

    name: Name
    role: OperatorRole
    namespaces: tuple[Name, ...] = ()
    """Where an editor may write."""
    since: int
    """Certificates and tokens that were made before are worth nothing: they are of somebody who was revoked."""
    granted_by: str
    revoked: int | None = None
    """Kept, not deleted: a certificate from before must not count again when the same name is granted anew."""
    revoked_by: str = ""
    serial: Annotated[int, msgspec.Meta(ge=0, le=2**62)] = 0
    """Above every earlier one of the operator, and at least the millisecond in which it was made; 0: made before
    there were serials."""


class HostRule(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Who holds a certificate that `match` fits may be any service that `selector` selects."""

    match: str
    """controlplane/ca/host_rules.py: ``dns:*.shop.example.com``, ``cn:db1``, ``uri:…``, ``any``."""
    selector: str
    """schemas/selectors.py: ``shop/orders``, ``shop/*``."""


class HostAuthority(Record, frozen=True, kw_only=True, tag="HostAuthority"):
    """An authority of host certificates, of which a host may show one in order to join."""

    name: Name
    x509_authorities: tuple[bytes, ...]
    """DER certificates."""
    rules: tuple[HostRule, ...]
    changed: int
    changed_by: str
    serial: Annotated[int, msgspec.Meta(ge=0, le=2**62)] = 0
    """As an operator's."""


class RequestRecord(Record, frozen=True, kw_only=True, tag="RequestRecord"):
    """The outcome of a write by its idempotency key, kept for as long as a client may ask again."""

    fingerprint: bytes
    """SHA-256 of the request: the same key with another request is refused."""
    revision: int | None = None
    """Unset in the stored value: the write's revision is the record's own mod revision."""


class AddressSlot(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Whose virtual address one is, or was."""

    namespace: Name
    name: Name
    released: int | None = None
    """When its service was deleted; None: it is in use."""


class AddressBlock(Record, frozen=True, kw_only=True, tag="AddressBlock"):
    """Up to 256 virtual addresses with the services that have them: what keeps two services from having one."""

    slots: dict[str, AddressSlot] = {}
    """By IPv4 address."""


AnyRecord = (
    Endpoint
    | SidecarStatus
    | SilentSidecar
    | LogLevel
    | Epoch
    | Beacon
    | IssuingTimes
    | ExcusedLeaf
    | Revocation
    | TrustBundle
    | SealedKey
    | Rotation
    | ReplicaStatus
    | FederationStatus
    | KeySet
    | KeySetStatus
    | JoinToken
    | LoginToken
    | Operator
    | HostAuthority
    | RequestRecord
    | AddressBlock
)
