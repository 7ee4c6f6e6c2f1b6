"""Clients that send what they are told: no library of theirs normalises, escapes or refuses anything."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence

import h2.config
import h2.connection
import h2.events
import h2.exceptions

TIMEOUT = 20.0  # seconds; answers take milliseconds

Connect = Callable[[], socket.socket]


class Http1:
    """Requests one after the other over one connection, and over a new one when the peer has closed it."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._sock: socket.socket | None = None

    def ask(self, head: bytes) -> int | None:
        """The status; None: closed without an answer."""
        fresh = self._sock is None
        try:
            return self._ask(head)
        except ConnectionError:
            self.close()
            if fresh:
                return None
        try:
            return self._ask(head)  # the peer had closed it for the request before
        except ConnectionError:
            self.close()
            return None

    def _ask(self, head: bytes) -> int:
        if self._sock is None:
            self._sock = self._connect()
        self._sock.sendall(head)
        buffer = b""
        while b"\r\n\r\n" not in buffer:
            buffer += self._read()
        start, _, body = buffer.partition(b"\r\n\r\n")
        lines = start.lower().split(b"\r\n")
        length = next((int(one.partition(b":")[2]) for one in lines if one.startswith(b"content-length:")), 0)
        while len(body) < length:
            body += self._read()
        if b"connection: close" in lines or len(body) > length:
            self.close()
        return int(lines[0].split(b" ")[1])

    def _read(self) -> bytes:
        assert self._sock is not None
        part = self._sock.recv(65536)
        if not part:
            raise ConnectionResetError("closed")
        return part

    def close(self) -> None:
        if self._sock is not None:
            self._sock.close()
            self._sock = None


class Http2:
    """The same over HTTP/2, one stream after the other."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._sock: socket.socket | None = None
        self._connection = h2.connection.H2Connection()

    def ask(self, headers: Sequence[tuple[bytes, bytes]]) -> int | None:
        """The status; None: the stream was reset, or the connection closed."""
        if self._sock is None:
            config = h2.config.H2Configuration(
                validate_outbound_headers=False, normalize_outbound_headers=False, header_encoding=None
            )
            self._connection = h2.connection.H2Connection(config)
            self._sock = self._connect()
            self._connection.initiate_connection()
        stream = self._connection.get_next_available_stream_id()
        status = None
        try:
            self._connection.send_headers(stream, list(headers), end_stream=True)
            self._sock.sendall(self._connection.data_to_send())
            while True:
                part = self._sock.recv(65536)
                if not part:
                    raise ConnectionResetError("closed")
                for event in self._connection.receive_data(part):
                    match event:
                        case h2.events.ResponseReceived():
                            status = int(dict(event.headers)[b":status"])
                        case h2.events.DataReceived():
                            self._connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                        case h2.events.StreamEnded(stream_id=of) | h2.events.StreamReset(stream_id=of) if of == stream:
                            self._sock.sendall(self._connection.data_to_send())
                            return status
                        case h2.events.ConnectionTerminated():
                            raise ConnectionResetError("told to go away")
                self._sock.sendall(self._connection.data_to_send())
        except (ConnectionError, h2.exceptions.ProtocolError):
            self.close()
            return status

    def close(self) -> None:
        if self._sock is not None:
            self._sock.close()
            self._sock = None
