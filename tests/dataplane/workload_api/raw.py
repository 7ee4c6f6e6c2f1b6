"""gRPC by hand, on a connection that the test holds: what a client library would not send, or not show."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar

import h2.config
import h2.connection
import h2.events
import trio
from google.protobuf.message import Message

from dataplane.workload_api.wire import framed
from trio_grpc import StatusCode

SECONDS = 10.0
Reply = TypeVar("Reply", bound=Message)
_CODES = {code.value[0]: code for code in StatusCode}


class Ended(Exception):
    """The connection was closed."""


@dataclass
class Answer:
    """What has come on one call."""

    body: bytes = b""
    code: StatusCode | None = None
    """None: it goes on."""
    text: str = ""
    http_status: str = ""
    reset: int | None = None

    def messages(self, kind: type[Reply]) -> list[Reply]:
        found, rest = [], self.body
        while len(rest) >= 5 and len(rest) >= (end := 5 + int.from_bytes(rest[1:5], "big")):
            found.append(kind.FromString(rest[5:end]))
            rest = rest[end:]
        return found


@dataclass
class RawClient:
    """One connection."""

    stream: trio.SocketStream
    answers: dict[int, Answer] = field(default_factory=dict)
    goaway: int | None = None

    def __post_init__(self) -> None:
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding=None))
        self._h2.initiate_connection()

    async def begin(
        self,
        path: str,
        message: bytes = b"",
        *,
        metadata: tuple[tuple[str, str], ...] = (("workload.spiffe.io", "true"),),
        headers: dict[str, str] | None = None,
        end: bool = True,
        body: bytes | None = None,
    ) -> Answer:
        """A call of `path`; ``answer`` fills while `until` runs."""
        number = self._h2.get_next_available_stream_id()
        fields = {
            ":method": "POST",
            ":scheme": "http",
            ":path": path,
            ":authority": "localhost",
            "te": "trailers",
            "content-type": "application/grpc",
        } | (headers or {})
        answer = self.answers[number] = Answer()
        self._h2.send_headers(number, [*fields.items(), *metadata])
        self._h2.send_data(number, framed(message) if body is None else body, end_stream=end)
        await self.stream.send_all(self._h2.data_to_send())
        return answer

    async def ended(self, answer: Answer) -> Answer:
        """When the call has its status."""
        while answer.code is None and not answer.http_status and answer.reset is None:
            await self._read()
        return answer

    async def news(self, answer: Answer) -> None:
        """When the call has a message, or its status."""
        while len(answer.body) < 5 and answer.code is None:
            await self._read()

    async def message(self, answer: Answer, kind: type[Reply], count: int = 1) -> Reply:
        """The `count`-th message."""
        while len(answer.messages(kind)) < count:
            if answer.code is not None:
                raise AssertionError(f"the call ended: {answer.code} {answer.text}")
            await self._read()
        return answer.messages(kind)[count - 1]

    async def closed(self) -> None:
        """When the other side has closed the connection."""
        while True:
            try:
                await self._read()
            except Ended:
                return

    async def _read(self) -> None:
        with trio.fail_after(SECONDS):
            try:
                data = await self.stream.receive_some(65536)
            except trio.BrokenResourceError:
                data = b""
        if not data:
            raise Ended
        for event in self._h2.receive_data(data):
            match event:
                case h2.events.ResponseReceived() | h2.events.TrailersReceived():
                    self._headers(event)
                case h2.events.DataReceived(stream_id=int(number)):
                    self.answers[number].body += event.data or b""
                    self._h2.acknowledge_received_data(event.flow_controlled_length or 0, number)
                case h2.events.StreamReset(stream_id=int(number)):
                    self.answers[number].reset = int(event.error_code or 0)
                case h2.events.ConnectionTerminated():
                    self.goaway = int(event.error_code or 0)
        sent = self._h2.data_to_send()
        if sent:
            await self.stream.send_all(sent)

    def _headers(self, event: h2.events.ResponseReceived | h2.events.TrailersReceived) -> None:
        fields = {name.decode(): value.decode() for name, value in event.headers or []}
        answer = self.answers[event.stream_id or 0]
        if "grpc-status" in fields:
            answer.code = _CODES[int(fields["grpc-status"])]
            answer.text = fields.get("grpc-message", "")
        elif fields.get(":status", "200") != "200":
            answer.http_status = fields[":status"]
