"""Apps that write down what really reached them, byte for byte: HTTP/1.1 read by hand, HTTP/2 as its frames say.

A request names itself in the header `x-number`; what is written down under it is what the app would have judged by.
"""

from __future__ import annotations

import contextlib
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.events
import h2.exceptions

Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True)
class Seen:
    method: bytes
    target: bytes
    headers: Headers
    body: bytes = b""

    def all_of(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key.lower() == name]


@dataclass
class Recorder:
    """`seen`: by request number; a list, because a request that was split in two would be there twice."""

    http: int = 0
    http2: int = 0
    """Ports on 127.0.0.1."""
    seen: dict[bytes, list[Seen]] = field(default_factory=dict)

    def note(self, seen: Seen) -> None:
        number = b",".join(seen.all_of(b"x-number"))
        self.seen.setdefault(number, []).append(seen)


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 64


@contextmanager
def recorder() -> Iterator[Recorder]:
    notes = Recorder()

    class Http(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(ConnectionError):
                buffer = b""
                while True:
                    while b"\r\n\r\n" not in buffer:
                        part = self.request.recv(65536)
                        if not part:
                            return
                        buffer += part
                    head, _, buffer = buffer.partition(b"\r\n\r\n")
                    line, *rest = head.split(b"\r\n")
                    method, _, rest_of_line = line.partition(b" ")
                    target = rest_of_line.rpartition(b" ")[0]
                    headers = [(name, value.strip()) for name, _, value in (one.partition(b":") for one in rest)]
                    length = sum(int(value) for name, value in headers if name.lower() == b"content-length")
                    while len(buffer) < length:
                        buffer += self.request.recv(65536)
                    notes.note(Seen(method, target, headers, buffer[:length]))
                    buffer = buffer[length:]
                    self.request.sendall(b"HTTP/1.1 200 OK\r\nx-app: 1\r\ncontent-length: 2\r\n\r\nok")

    class Http2(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            config = h2.config.H2Configuration(
                client_side=False, validate_inbound_headers=False, normalize_inbound_headers=False, header_encoding=None
            )
            connection = h2.connection.H2Connection(config)
            connection.initiate_connection()
            with contextlib.suppress(ConnectionError, h2.exceptions.ProtocolError):
                self.request.sendall(connection.data_to_send())
                while part := self.request.recv(65536):
                    for event in connection.receive_data(part):
                        if isinstance(event, h2.events.RequestReceived):
                            headers = [(bytes(name), bytes(value)) for name, value in event.headers]
                            of = dict(headers)
                            notes.note(Seen(of.get(b":method", b""), of.get(b":path", b""), headers))
                            answer = [(":status", "200"), ("x-app", "1"), ("content-type", "application/grpc")]
                            connection.send_headers(event.stream_id, answer)
                            connection.send_headers(event.stream_id, [("grpc-status", "0")], end_stream=True)
                    self.request.sendall(connection.data_to_send())

    with _Server(("127.0.0.1", 0), Http) as http, _Server(("127.0.0.1", 0), Http2) as http2:
        for server in (http, http2):
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        notes.http, notes.http2 = http.server_address[1], http2.server_address[1]
        try:
            yield notes
        finally:
            http.shutdown()
            http2.shutdown()
