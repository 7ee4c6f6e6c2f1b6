"""The least that can be done: watch one key, and push a response that was serialized beforehand.

argv: a directory with ca.crt, cert.crt, cert.key; host:port of etcd; the key; the ADS socket. Says, as the sidecar
does, ``<revision> <monotonic ns>`` for each ack of its Envoy. Plain grpcio, plain threads, no mesh.
"""

import queue
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
from envoy.service.discovery.v3 import discovery_pb2

from dataplane.compile.compiler import Compiler
from dataplane.compile.resources import ROUTES, ResourceKey
from dataplane.compile.workload import Workload
from dataplane.pipeline import Pipeline
from dataplane.snapshot.state import MeshState
from dataplane.watch.events import Listing, Put
from schemas.names import ServiceRef
from tests.bench.objects import KEYS, POLICY_KEY, RAW_ROUTES, SERVICE_KEY, policy, service
from trio_etcd._proto import etcd_pb2

DELTA = "DeltaAggregatedResources"


def prepared(number: int) -> bytes:
    """A whole response, ready for the wire, with what the sidecar's compiler makes of the service and a policy.

    The same work for Envoy as in the sidecar; `number` makes them differ, so that there is some.
    """
    pipeline = Pipeline(
        MeshState(KEYS), Compiler(Workload(ServiceRef("bench", "subject"), "bench.example", "127.0.0.1"))
    )
    pipeline.take(Listing(KEYS.config(), 1, (Put(SERVICE_KEY, service(), 1), Put(POLICY_KEY, policy(number), 1))))
    for prefix in sorted(pipeline.wanted() - {KEYS.config()}):
        pipeline.take(Listing(prefix, 1, ()))
    pipeline.build()
    compiled = pipeline.compiler.resources()[ResourceKey(ROUTES, RAW_ROUTES)]
    response = discovery_pb2.DeltaDiscoveryResponse(type_url=ROUTES, nonce=str(number))
    resource = response.resources.add(name=RAW_ROUTES, version=compiled.version)
    resource.resource.type_url = ROUTES
    resource.resource.value = compiled.body
    serialized: bytes = response.SerializeToString()
    return serialized


def main() -> None:
    responses = (prepared(0), prepared(1))
    directory, endpoint, key, socket = Path(sys.argv[1]), sys.argv[2], sys.argv[3].encode(), sys.argv[4]
    revisions: queue.SimpleQueue[int] = queue.SimpleQueue()

    def serve_delta(requests: Iterator[discovery_pb2.DeltaDiscoveryRequest], _: Any) -> Iterator[bytes]:
        pushed: queue.SimpleQueue[int] = queue.SimpleQueue()

        def read() -> None:
            for request in requests:
                if request.response_nonce and not request.HasField("error_detail"):
                    revision = pushed.get()
                    sys.stdout.write(f"{revision} {time.monotonic_ns()}\n")
                    sys.stdout.flush()

        pool.submit(read)
        pushed.put(1)
        yield responses[0]
        while True:
            revision = revisions.get()
            pushed.put(revision)
            yield responses[revision % 2]

    pool = ThreadPoolExecutor(8)
    server = grpc.server(pool)
    handler = grpc.stream_stream_rpc_method_handler(
        serve_delta, discovery_pb2.DeltaDiscoveryRequest.FromString, lambda ready: ready
    )
    service = "envoy.service.discovery.v3.AggregatedDiscoveryService"
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {DELTA: handler}),))
    server.add_insecure_port(f"unix:{socket}")
    server.start()

    read = {name: (directory / name).read_bytes() for name in ("ca.crt", "cert.crt", "cert.key")}
    credentials = grpc.ssl_channel_credentials(read["ca.crt"], read["cert.key"], read["cert.crt"])
    watch = grpc.secure_channel(endpoint, credentials).stream_stream(
        "/etcdserverpb.Watch/Watch", etcd_pb2.WatchRequest.SerializeToString, etcd_pb2.WatchResponse.FromString
    )
    create: queue.SimpleQueue[etcd_pb2.WatchRequest] = queue.SimpleQueue()
    create.put(etcd_pb2.WatchRequest(create_request=etcd_pb2.WatchCreateRequest(key=key)))
    for response in watch(iter(create.get, None)):
        for event in response.events:
            revisions.put(event.kv.mod_revision)


if __name__ == "__main__":
    main()
