"""(c) What one endpoint's change costs the pipeline at 100 and at 10,000 services: it must not know the difference."""

import time

from dataplane.compile.compiler import Compiler
from dataplane.compile.workload import Workload
from dataplane.pipeline import Pipeline
from dataplane.snapshot.state import MeshState
from dataplane.watch.events import Changes, Listing, Put
from schemas import codec
from schemas.keys import EndpointRef, Keyspace
from schemas.names import ObjectRef, ServiceRef
from schemas.objects import Metadata, Service
from schemas.objects.service import Dependency, ServicePort, ServiceSpec
from schemas.records import Endpoint
from tests.bench.harness import Figure, Target, figure

SMALL, LARGE = 100, 10_000
INSTANCES = 10
PAIRS = 60
CHANGES = 50  # a measurement

KEYS = Keyspace()
CALLER = ServiceRef("shop", "caller")
CALLED = ServiceRef("shop", "s-1")


def service(ref: ServiceRef, dependencies: tuple[Dependency, ...]) -> bytes:
    return codec.encode(
        Service(
            api_version="mesh/v1",
            metadata=Metadata(name=ref.name, namespace=ref.namespace),
            spec=ServiceSpec(ports=(ServicePort(name="http", port=8080, protocol="http"),), dependencies=dependencies),
        )
    )


def endpoint(number: int) -> bytes:
    address = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
    return codec.encode(Endpoint(address=address, ports={"http": 8080}))


def pipeline(services: int) -> Pipeline:
    """A caller that depends on every service of the mesh: the hardest case; ten instances each."""
    made = Pipeline(MeshState(KEYS), Compiler(Workload(CALLER, "bench.example", "10.0.0.1")))
    names = [ServiceRef("shop", f"s-{number}") for number in range(services)]
    config = [Put(KEYS.object(_ref(CALLER)), service(CALLER, (Dependency(name="*"),)), 1)]
    config += [Put(KEYS.object(_ref(name)), service(name, ()), 1) for name in names]
    endpoints = [
        Put(KEYS.endpoint(EndpointRef(name, f"i-{instance}")), endpoint(index * INSTANCES + instance), 1)
        for index, name in enumerate(names)
        for instance in range(INSTANCES)
    ]
    made.take(Listing(KEYS.config(), 1, tuple(config)))
    for prefix in sorted(made.wanted() - {KEYS.config(), KEYS.endpoints()}):
        made.take(Listing(prefix, 1, ()))
    made.take(Listing(KEYS.endpoints(), 1, tuple(endpoints)))
    update = made.build()
    if update is None or len(update.changed) < 2 * services:
        raise AssertionError("the pipeline built nothing")
    return made


def measure(subject: Pipeline, first: int) -> float:
    """Seconds for CHANGES changes of one endpoint, each a revision of its own."""
    key = KEYS.endpoint(EndpointRef(CALLED, "i-0"))
    events = [Changes(KEYS.endpoints(), n, (Put(key, endpoint(n), n),)) for n in range(first, first + CHANGES)]
    started = time.perf_counter()
    for event in events:
        subject.take(event)
        update = subject.build()
        if update is None or len(update.changed) != 1:
            raise AssertionError(f"one endpoint changed, and {update} came out")
    return time.perf_counter() - started


def run() -> list[Figure]:
    small, large = pipeline(SMALL), pipeline(LARGE)
    pairs = []
    for pair in range(PAIRS + 5):
        first = 2 + pair * CHANGES
        if pair % 2:
            one, other = measure(large, first), measure(small, first)
        else:
            other, one = measure(small, first), measure(large, first)
        if pair >= 5:  # the first ones warm caches up
            pairs.append((one / CHANGES * 1e6, other / CHANGES * 1e6))
    what = f"one endpoint's change, {LARGE:,} against {SMALL} services, all of them dependencies"
    return [figure("compile_cost", what, pairs, "us", Target("<=", 1.1))]


def _ref(service: ServiceRef) -> ObjectRef:
    return ObjectRef(Service.__name__, service.namespace, service.name)
