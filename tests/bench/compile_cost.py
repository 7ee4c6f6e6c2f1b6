"""What a change costs a sidecar at 100 and at 10,000 services of the mesh: it must not know the difference.

compile_cost    one endpoint's change where all services are dependencies: the pipeline from event to update
scope_cost      the same where ten are, whatever the mesh holds
scope_foreign   a change of a service that is none of the ten: it comes in, and nothing comes of it
scope_bytes     all that Envoy is given, where ten are
scope_memory    all that the pipeline keeps, where ten are
"""

import gc
import time
import tracemalloc
from collections.abc import Callable

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
DEPENDENCIES = 10

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


def pipeline(services: int, dependencies: int | None = None) -> Pipeline:
    """A caller of the first so many services of the mesh, or of all: the hardest case. Ten instances each."""
    made = Pipeline(MeshState(KEYS), Compiler(Workload(CALLER, "bench.example", "10.0.0.1")))
    names = [ServiceRef("shop", f"s-{number}") for number in range(services)]
    called = ["*"] if dependencies is None else [name.name for name in names[:dependencies]]
    config = [Put(KEYS.object(_ref(CALLER)), service(CALLER, tuple(Dependency(name=one) for one in called)), 1)]
    config += [Put(KEYS.object(_ref(name)), service(name, ()), 1) for name in names]
    made.take(Listing(KEYS.config(), 1, tuple(config)))
    for prefix in sorted(made.wanted() - {KEYS.config()}):
        made.take(
            Listing(prefix, 1, tuple(one for one in _endpoints(names, dependencies) if one.key.startswith(prefix)))
        )
    update = made.build()
    if update is None or len(update.changed) < 2 * (services if dependencies is None else dependencies):
        raise AssertionError("the pipeline built nothing")
    return made


def _endpoints(names: list[ServiceRef], dependencies: int | None) -> list[Put]:
    """All that may be asked for."""
    return [
        Put(KEYS.endpoint(EndpointRef(name, f"i-{instance}")), endpoint(index * INSTANCES + instance), 1)
        for index, name in enumerate(names[:dependencies])
        for instance in range(INSTANCES)
    ]


Measure = Callable[[Pipeline, int], float]


def measure(subject: Pipeline, first: int) -> float:
    """Seconds for CHANGES changes of one endpoint, each a revision of its own."""
    key = KEYS.endpoint(EndpointRef(CALLED, "i-0"))
    events = [Changes(KEYS.endpoints(), n, (Put(key, endpoint(n), n),)) for n in range(first, first + CHANGES)]
    started = time.thread_time()
    for event in events:
        subject.take(event)
        update = subject.build()
        if update is None or len(update.changed) != 1:
            raise AssertionError(f"one endpoint changed, and {update} came out")
    return time.thread_time() - started


def measure_foreign(subject: Pipeline, first: int) -> float:
    """Seconds for CHANGES changes of a service that nobody here depends on."""
    ref = ServiceRef("shop", f"s-{SMALL - 1}")
    key = KEYS.object(_ref(ref))
    events = []
    for n in range(first, first + CHANGES):
        value = service(ref, (Dependency(name=f"s-{n}"),))
        events.append(Changes(KEYS.config(), n, (Put(key, value, n),)))
    started = time.thread_time()
    for event in events:
        subject.take(event)
        update = subject.build()
        if update is None or update.changed or update.removed:
            raise AssertionError(f"a service that is nothing to us changed, and {update} came out")
    return time.thread_time() - started


def compared(measure: Measure, large: Pipeline, small: Pipeline) -> list[tuple[float, float]]:
    """Microseconds a change, by turns."""
    pairs = []
    for pair in range(PAIRS + 5):
        first = 2 + pair * CHANGES
        if pair % 2:
            one, other = measure(large, first), measure(small, first)
        else:
            other, one = measure(small, first), measure(large, first)
        if pair >= 5:  # the first ones warm caches up
            pairs.append((one / CHANGES * 1e6, other / CHANGES * 1e6))
    return pairs


def memory(services: int) -> float:
    """KiB that a pipeline keeps."""
    tracemalloc.start()
    try:
        kept = pipeline(services, DEPENDENCIES)
        gc.collect()
        size = tracemalloc.get_traced_memory()[0]
        if not kept.complete:
            raise AssertionError("the pipeline is not complete")
        return size / 1024
    finally:
        tracemalloc.stop()


def given(subject: Pipeline) -> float:
    """KiB of configuration."""
    return sum(len(one.body) for one in subject.compiler.resources().values()) / 1024


def run() -> list[Figure]:
    pipeline(SMALL, DEPENDENCIES)  # what the first one makes for all: modules, caches
    kept = [(memory(LARGE), memory(SMALL))]
    target = Target("<=", 1.1)
    of = f"{LARGE:,} against {SMALL} services"
    everything = compared(measure, pipeline(LARGE), pipeline(SMALL))
    large, small = pipeline(LARGE, DEPENDENCIES), pipeline(SMALL, DEPENDENCIES)
    ten = f"{of}, {DEPENDENCIES} of them dependencies"
    return [
        figure("compile_cost", f"one endpoint's change, {of}, all of them dependencies", everything, "us", target),
        figure("scope_cost", f"one endpoint's change, {ten}", compared(measure, large, small), "us", target),
        figure("scope_foreign", f"another's change, {ten}", compared(measure_foreign, large, small), "us", target),
        figure("scope_bytes", f"configuration of Envoy, {ten}", [(given(large), given(small))], "KiB", target),
        figure("scope_memory", f"memory of the pipeline, {ten}", kept, "KiB", target),
    ]


def _ref(service: ServiceRef) -> ObjectRef:
    return ObjectRef(Service.__name__, service.namespace, service.name)
