"""A new DENY under load: after the bound that the documentation states, not one request passes on what is open."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import h2.connection
import h2.events
import pytest
import trio
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_der_private_key

from dataplane.workload_api import workload_pb2 as pb
from schemas.objects.authorization import Rule
from tests.dataplane.workload_api.asking import certificates
from tests.e2e.app import HTTP2
from tests.e2e.mesh import E2eMesh
from tests.states.build import policy

CONNECTIONS = 100
BOUND_S = 2.0  # of docs/authorization.md, from etcd's answer on
# Seconds between an answer and the next request of a connection: together they ask for more than is answered here.
PAUSE_S = 0.1
DENY_ALL = policy("closed", "DENY", Rule(), on=["api"])


@dataclass
class Answers:
    """(when asked, status) of each request, by connection."""

    of: dict[int, list[tuple[float, int]]] = field(default_factory=dict)

    async def every(self, what: str, since: float, count: int) -> None:
        """Returns when each connection has so many answers to what it asked since then."""
        with trio.move_on_after(30) as patience:
            while any(sum(1 for at, _ in one if at >= since) < count for one in self.of.values()):  # noqa: ASYNC110
                await trio.sleep(0.05)
        assert not patience.cancelled_caught, what


async def asking(connection: int, address: str, context: ssl.SSLContext, answers: Answers) -> None:
    """One request after another over one connection. Ends with an exception where that is closed."""
    mine = answers.of[connection]
    stream = trio.SSLStream(await trio.open_tcp_stream(address, HTTP2), context, server_hostname="api.shop")
    http2 = h2.connection.H2Connection()
    http2.initiate_connection()
    headers = [(":method", "GET"), (":scheme", "https"), (":authority", "api.shop:8081"), (":path", "/")]
    while True:
        number, asked = http2.get_next_available_stream_id(), trio.current_time()
        http2.send_headers(number, headers, end_stream=True)
        status, ended = 0, False
        while not ended:
            await stream.send_all(http2.data_to_send())
            part = await stream.receive_some(65536)
            assert part, f"connection {connection} was closed"
            for event in http2.receive_data(part):
                match event:
                    case h2.events.ResponseReceived():
                        status = int(dict(event.headers)[b":status"])
                    case h2.events.DataReceived():
                        http2.acknowledge_received_data(event.flow_controlled_length, number)
                    case h2.events.StreamEnded():
                        ended = True
                    case h2.events.StreamReset() | h2.events.ConnectionTerminated():
                        raise AssertionError(f"connection {connection}: {event}")
        mine.append((asked, status))
        await trio.sleep(PAUSE_S)


def context_of_web(mesh: E2eMesh, directory: Path) -> ssl.SSLContext:
    """As web's app gets its identity, so that every connection is one of the called sidecar."""
    with grpc.insecure_channel(f"unix://{mesh.workload_api('web-1')}") as channel:
        fetch = channel.unary_stream(
            "/SpiffeWorkloadAPI/FetchX509SVID",
            request_serializer=pb.X509SVIDRequest.SerializeToString,
            response_deserializer=pb.X509SVIDResponse.FromString,
        )
        call = fetch(pb.X509SVIDRequest(), metadata=(("workload.spiffe.io", "true"),), timeout=20)
        (svid,) = next(call).svids
        call.cancel()
    key = load_der_private_key(svid.x509_svid_key, None)
    file = directory / "web.pem"
    file.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        + b"".join(one.public_bytes(Encoding.PEM) for one in certificates(svid.x509_svid))
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # whom it talks to is not what is tested
    context.set_alpn_protocols(["h2"])
    context.load_cert_chain(file)
    return context


@pytest.mark.fault(24)
async def test_after_the_bound_no_request_passes_on_a_hundred_open_connections(mesh: E2eMesh, tmp_path: Path) -> None:
    context = await trio.to_thread.run_sync(context_of_web, mesh, tmp_path)
    answers = Answers({number: [] for number in range(CONNECTIONS)})
    try:
        async with trio.open_nursery() as nursery:
            for number in answers.of:
                nursery.start_soon(asking, number, mesh.instances["api-1"].advertised, context, answers)
            await answers.every("every connection is open, and asks", 0.0, 2)
            assert {status for one in answers.of.values() for _, status in one} == {200}
            await mesh.apply(DENY_ALL, wait=False)
            bound = trio.current_time() + BOUND_S
            await answers.every("every connection asks after the bound", bound, 3)
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            await mesh.restore([DENY_ALL.ref])
    late = [(number, at - bound, status) for number, one in answers.of.items() for at, status in one if at >= bound]
    assert {status for _, _, status in late} == {403}, [one for one in late if one[2] != 403]
