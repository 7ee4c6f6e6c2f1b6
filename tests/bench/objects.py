"""What both sides of the convergence figure are about: one service, and a policy of it that changes all the time."""

from dataplane.compile.inbound import listener_name
from schemas import codec
from schemas.keys import Keyspace
from schemas.names import ObjectRef
from schemas.objects import AuthorizationPolicy, Metadata, Service
from schemas.objects.authorization import AuthorizationPolicySpec, Operation, Rule
from schemas.objects.service import ServicePort, ServiceSpec

KEYS = Keyspace()
SERVICE_KEY = KEYS.object(ObjectRef(Service.__name__, "bench", "subject"))
POLICY_KEY = KEYS.object(ObjectRef(AuthorizationPolicy.__name__, "bench", "subject"))
RAW_KEY = KEYS.data() + b"bench-raw"  # beside what sidecars follow, so that the two don't disturb each other

_PORT = ServicePort(name="http", port=8080, protocol="http")
RAW_ROUTES = listener_name(_PORT)

SERVICE = {
    "apiVersion": "mesh/v1",
    "kind": "Service",
    "metadata": {"name": "subject", "namespace": "bench"},
    "spec": {"ports": [{"name": "http", "port": 8080, "protocol": "http"}], "dependencies": []},
}


def service() -> bytes:
    spec = ServiceSpec(ports=(_PORT,), dependencies=())
    return codec.encode(Service(api_version="mesh/v1", metadata=_metadata(), spec=spec))


def policy(number: int) -> bytes:
    rule = Rule(to=(Operation(methods=("GET",), paths=(f"/{number}",)),))
    spec = AuthorizationPolicySpec(rules=(rule,))
    return codec.encode(AuthorizationPolicy(api_version="mesh/v1", metadata=_metadata(), spec=spec))


def _metadata() -> Metadata:
    return Metadata(name="subject", namespace="bench")
