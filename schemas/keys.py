"""The layout of etcd: key <-> what it holds. The only place in the project that puts '/' between names.

The two halves mirror the two planes, and their order matters: etcd versions before 3.5.33, 3.6.14 and 3.7.1 leak to a
watcher the events of keys that sort after the one it may read (GHSA-xg4h-6gfc-h4m8). So ``data/``, which sidecars
may read, sorts after ``control/``, and etcd belongs to the mesh alone.
"""

from dataclasses import dataclass

from schemas.names import ObjectRef, ServiceRef

DEFAULT_PREFIX = "/mesh/v1"


@dataclass(frozen=True, slots=True)
class EndpointRef:
    service: ServiceRef
    instance: str

    def __str__(self) -> str:
        return f"Endpoint {self.service.namespace}/{self.service.name}/{self.instance}"


@dataclass(frozen=True, slots=True)
class TrustRef:
    trust_domain: str

    def __str__(self) -> str:
        return f"TrustBundle {self.trust_domain}"


@dataclass(frozen=True, slots=True)
class RevocationRef:
    service: ServiceRef

    def __str__(self) -> str:
        return f"Revocation {self.service.namespace}/{self.service.name}"


@dataclass(frozen=True, slots=True, order=True)
class KeySetRef:
    """Of keys that are fetched; `digest` is of where from (`schemas.key_sets`)."""

    digest: str

    def __str__(self) -> str:
        return f"KeySet {self.digest}"


@dataclass(frozen=True, slots=True)
class EpochRef:
    def __str__(self) -> str:
        return "Epoch"


@dataclass(frozen=True, slots=True)
class StatusRef:
    namespace: str
    sidecar: str

    def __str__(self) -> str:
        return f"SidecarStatus {self.namespace}/{self.sidecar}"


@dataclass(frozen=True, slots=True)
class LogLevelRef:
    service: ServiceRef
    instance: str

    def __str__(self) -> str:
        return f"LogLevel {self.service.namespace}/{self.service.name}/{self.instance}"


DataRef = ObjectRef | EndpointRef | TrustRef | RevocationRef | KeySetRef | EpochRef
AnyRef = DataRef | StatusRef | LogLevelRef


@dataclass(frozen=True, slots=True)
class Keyspace:
    """All keys of one mesh. Keys are bytes, as etcd has them; prefixes end in '/'."""

    prefix: str = DEFAULT_PREFIX

    # -- data/: what sidecars and tooling may read
    def data(self) -> bytes:
        return f"{self.prefix}/data/".encode()

    def config(self) -> bytes:
        return f"{self.prefix}/data/config/".encode()

    def config_of_kind(self, kind: str, namespace: str | None = None) -> bytes:
        return f"{self.prefix}/data/config/{kind}/{namespace + '/' if namespace else ''}".encode()

    def object(self, ref: ObjectRef) -> bytes:
        return f"{self.prefix}/data/config/{ref.kind}/{ref.namespace}/{ref.name}".encode()

    def endpoints(self) -> bytes:
        return f"{self.prefix}/data/endpoints/".encode()

    def endpoints_of(self, service: ServiceRef) -> bytes:
        return f"{self.prefix}/data/endpoints/{service.namespace}/{service.name}/".encode()

    def endpoint(self, ref: EndpointRef) -> bytes:
        return self.endpoints_of(ref.service) + ref.instance.encode()

    def trust(self) -> bytes:
        return f"{self.prefix}/data/trust/".encode()

    def trust_bundle(self, trust_domain: str) -> bytes:
        return f"{self.prefix}/data/trust/{trust_domain}".encode()

    def revocations(self) -> bytes:
        return f"{self.prefix}/data/revocations/".encode()

    def revocation(self, service: ServiceRef) -> bytes:
        return f"{self.prefix}/data/revocations/{service.namespace}/{service.name}".encode()

    def log_levels_of(self, service: ServiceRef) -> bytes:
        return f"{self.prefix}/data/log-levels/{service.namespace}/{service.name}/".encode()

    def log_level(self, ref: LogLevelRef) -> bytes:
        return self.log_levels_of(ref.service) + ref.instance.encode()

    def key_sets(self) -> bytes:
        return f"{self.prefix}/data/jwks/".encode()

    def key_set(self, ref: KeySetRef) -> bytes:
        return f"{self.prefix}/data/jwks/{ref.digest}".encode()

    def epoch(self) -> bytes:
        return f"{self.prefix}/data/epoch".encode()

    def questions(self) -> bytes:
        return f"{self.prefix}/data/questions/".encode()

    def question(self, question_id: str) -> bytes:
        return f"{self.prefix}/data/questions/{question_id}".encode()

    # -- control/: replicas only, but for status, which tooling may read
    def control(self) -> bytes:
        return f"{self.prefix}/control/".encode()

    def ca(self) -> bytes:
        return f"{self.prefix}/control/ca/".encode()

    def ca_key(self, key_id: str) -> bytes:
        return f"{self.prefix}/control/ca/{key_id}".encode()

    def rotation(self) -> bytes:
        return f"{self.prefix}/control/rotation".encode()

    def federation(self) -> bytes:
        return f"{self.prefix}/control/federation/".encode()

    def federation_status(self, trust_domain: str) -> bytes:
        return f"{self.prefix}/control/federation/{trust_domain}".encode()

    def key_set_statuses(self) -> bytes:
        return f"{self.prefix}/control/jwks/".encode()

    def key_set_status(self, ref: KeySetRef) -> bytes:
        return f"{self.prefix}/control/jwks/{ref.digest}".encode()

    def lock(self, name: str) -> bytes:
        return f"{self.prefix}/control/locks/{name}".encode()

    def replicas(self) -> bytes:
        return f"{self.prefix}/control/replicas/".encode()

    def replica(self, replica_id: str) -> bytes:
        return f"{self.prefix}/control/replicas/{replica_id}".encode()

    def beacon(self, replica_id: str) -> bytes:
        return f"{self.prefix}/control/beacons/{replica_id}".encode()

    def issuing_times(self) -> bytes:
        return f"{self.prefix}/control/issuing/times".encode()

    def issuing_pulse(self) -> bytes:
        return f"{self.prefix}/control/issuing/pulse".encode()

    def excused(self, fingerprint: str) -> bytes:
        return f"{self.prefix}/control/excused/{fingerprint}".encode()

    def token(self, token_id: str) -> bytes:
        return f"{self.prefix}/control/tokens/{token_id}".encode()

    def tokens(self) -> bytes:
        return f"{self.prefix}/control/tokens/".encode()

    def operators(self) -> bytes:
        return f"{self.prefix}/control/operators/".encode()

    def operator(self, name: str) -> bytes:
        return f"{self.prefix}/control/operators/{name}".encode()

    def attestors(self) -> bytes:
        return f"{self.prefix}/control/attestors/".encode()

    def attestor(self, name: str) -> bytes:
        return f"{self.prefix}/control/attestors/{name}".encode()

    def request(self, request_id: str) -> bytes:
        return f"{self.prefix}/control/requests/{request_id}".encode()

    def address_blocks(self) -> bytes:
        return f"{self.prefix}/control/addresses/".encode()

    def address_block(self, network: str) -> bytes:
        """network: the lowest address of the block."""
        return f"{self.prefix}/control/addresses/{network}".encode()

    def changes_of(self, kind: str) -> bytes:
        """Written anew with each change of an object of that kind."""
        return f"{self.prefix}/control/changes/{kind}".encode()

    def silent(self) -> bytes:
        return f"{self.prefix}/control/silent/".encode()

    def silent_sidecar(self, ref: StatusRef) -> bytes:
        return f"{self.prefix}/control/silent/{ref.namespace}/{ref.sidecar}".encode()

    def answers(self, question_id: str) -> bytes:
        return f"{self.prefix}/control/answers/{question_id}/".encode()

    def answer(self, question_id: str, ref: StatusRef) -> bytes:
        """ref: of the sidecar that answers."""
        return self.answers(question_id) + f"{ref.namespace}/{ref.sidecar}".encode()

    def statuses(self) -> bytes:
        return f"{self.prefix}/control/status/".encode()

    def statuses_of(self, namespace: str) -> bytes:
        return f"{self.prefix}/control/status/{namespace}/".encode()

    def status(self, ref: StatusRef) -> bytes:
        return f"{self.prefix}/control/status/{ref.namespace}/{ref.sidecar}".encode()

    def parse(self, key: bytes) -> AnyRef | None:
        """What a key under ``data/`` or ``control/status/`` holds; None for any other key and for a foreign shape."""
        try:
            text = key.decode("ascii")
        except UnicodeDecodeError:
            return None
        if not text.startswith(f"{self.prefix}/"):
            return None
        match text[len(self.prefix) + 1 :].split("/"):
            case ["data", "config", kind, namespace, name] if kind and namespace and name:
                return ObjectRef(kind, namespace, name)
            case ["data", "endpoints", namespace, service, instance] if namespace and service and instance:
                return EndpointRef(ServiceRef(namespace, service), instance)
            case ["data", "trust", trust_domain] if trust_domain:
                return TrustRef(trust_domain)
            case ["data", "revocations", namespace, service] if namespace and service:
                return RevocationRef(ServiceRef(namespace, service))
            case ["data", "log-levels", namespace, service, instance] if namespace and service and instance:
                return LogLevelRef(ServiceRef(namespace, service), instance)
            case ["data", "jwks", digest] if digest:
                return KeySetRef(digest)
            case ["data", "epoch"]:
                return EpochRef()
            case ["control", "status", namespace, sidecar] if namespace and sidecar:
                return StatusRef(namespace, sidecar)
        return None

    def parse_silent(self, key: bytes) -> StatusRef | None:
        """Of which sidecar a key under ``control/silent/`` speaks; None for any other key."""
        prefix, status = self.silent(), self.statuses()
        ref = self.parse(status + key[len(prefix) :]) if key.startswith(prefix) else None
        return ref if isinstance(ref, StatusRef) else None
