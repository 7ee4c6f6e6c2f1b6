"""[edge] Envoy's admin interface over its Unix socket: one request a connection, HTTP/1.1 by h11.

https://www.envoyproxy.io/docs/envoy/latest/operations/admin
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import h11
import trio

from dataplane.compile.plaintext import SEEN
from dataplane.compile.request_metrics import PREFIX
from dataplane.envoy.lifecycle import Activity, parse_activity
from schemas.errors import Unavailable

REQUEST_SECONDS = 5.0  # Envoy answers in 1 ms; a config dump of 10,000 clusters takes about a second
MAX_REPLY_BYTES = 256 * 1024 * 1024  # a config dump of 10,000 clusters is about 50 MiB
_CHUNK = 64 * 1024

# HTTP and listener gauges, as one regular expression over names; url-encoded by hand: ^ ( | ) \ + $
_ACTIVITY = "/stats?type=Gauges&filter=%5E%28http%7Clistener%29%5C..%2B%5C.downstream_%28rq%7Ccx%29_active%24"

# What `dataplane.envoy.stats` reads, each as one regular expression over names.
_STATISTICS = (
    rf"^({PREFIX}\.|server\.(memory_allocated|uptime|live)$|tracing\.opentelemetry\.spans_|"
    r"http\..+\.downstream_cx_active$|(http\.|inbound\|).+\.rbac\.denied$)"
)
# Counters of who comes in plaintext.
_PLAINTEXT = f"/stats/prometheus?filter=%5E{SEEN}"
STATISTICS = f"/stats/prometheus?filter={quote(_STATISTICS, safe='')}"
# As plain text, for names with a dot in the part that the other format makes a label of. To ask for before that one:
# Envoy gathers its workers' histograms for each answer, but only after it has given it.
_NAMED = (
    r"^(cluster\.outbound\|.+\.outlier_detection\.ejections_(active|enforced_total)|"
    r"http\.inbound\|.+\.rbac\.policy\..+\.shadow_denied)$"
)
NAMED_STATISTICS = f"/stats?filter={quote(_NAMED, safe='')}"


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    body: bytes


class Admin:
    """Every method raises Unavailable when Envoy does not answer, or answers with something else than was asked."""

    def __init__(self, socket: str) -> None:
        self._socket = socket

    async def get(self, target: str, timeout: float = REQUEST_SECONDS) -> Reply:
        return await self._request("GET", target, timeout)

    async def post(self, target: str, timeout: float = REQUEST_SECONDS) -> Reply:
        """Everything that changes something is a POST. Raises Unavailable for an answer other than 200, too."""
        reply = await self._request("POST", target, timeout)
        if reply.status != 200:
            raise Unavailable(f"Envoy's admin answered {reply.status} to POST {target}: {reply.body[:200]!r}")
        return reply

    async def ready(self) -> bool:
        """True once Envoy has its first configuration and serves (``/ready`` is 200)."""
        return (await self.get("/ready")).status == 200

    async def version(self) -> str:
        """``1.40.0``, from ``/server_info``, whose version is commit/version/state/type/TLS library."""
        text = str((await self._json("/server_info")).get("version", ""))
        parts = text.split("/")
        return parts[1] if len(parts) > 1 else text

    async def config_dump(self) -> dict[str, Any]:
        """Everything that Envoy runs, with endpoints; private keys are left out by Envoy."""
        return await self._json("/config_dump?include_eds")

    async def activity(self) -> Activity:
        reply = await self.get(_ACTIVITY)
        if reply.status != 200:
            raise Unavailable(f"Envoy's admin answered {reply.status} to {_ACTIVITY}: {reply.body[:200]!r}")
        return parse_activity(reply.body.decode(errors="replace"))

    async def statistics(self) -> str:
        """What `dataplane.envoy.stats` reads."""
        return await self._texts(NAMED_STATISTICS, STATISTICS)

    async def audits(self) -> str:
        """What `dataplane.envoy.audits` reads, with more."""
        return await self._texts(NAMED_STATISTICS)

    async def _texts(self, *targets: str) -> str:
        text = ""
        for target in targets:
            reply = await self.get(target)
            if reply.status != 200:
                raise Unavailable(f"Envoy's admin answered {reply.status} to {target}: {reply.body[:200]!r}")
            text += reply.body.decode(errors="replace")
        return text

    async def log_levels(self) -> dict[str, str]:
        """By logger."""
        return _levels((await self.post("/logging")).body)

    async def set_log_levels(self, general: str, of_loggers: Mapping[str, str]) -> frozenset[str]:
        """`general` for all loggers but those; all that there are. Envoy's other ones are passed over."""
        known = frozenset(_levels((await self.post(f"/logging?level={general}")).body))
        paths = ",".join(f"{name}:{level}" for name, level in sorted(of_loggers.items()) if name in known)
        if paths:
            await self.post(f"/logging?paths={paths}")
        return known

    async def plaintext(self) -> str:
        """What `dataplane.plaintext_seen` reads."""
        reply = await self.get(_PLAINTEXT)
        if reply.status != 200:
            raise Unavailable(f"Envoy's admin answered {reply.status} to {_PLAINTEXT}: {reply.body[:200]!r}")
        return reply.body.decode(errors="replace")

    async def _json(self, target: str) -> dict[str, Any]:
        reply = await self.get(target)
        try:
            value = json.loads(reply.body)
        except ValueError as error:
            raise Unavailable(f"Envoy's admin answered {target} with no JSON: {error}") from error
        if reply.status != 200 or not isinstance(value, dict):
            raise Unavailable(f"Envoy's admin answered {reply.status} to {target}")
        return value

    async def _request(self, method: str, target: str, timeout: float) -> Reply:
        try:
            with trio.fail_after(timeout):
                stream = await trio.open_unix_socket(self._socket)
                async with stream:
                    return await _exchange(stream, method, target)
        except trio.TooSlowError:
            raise Unavailable(f"Envoy's admin did not answer {method} {target} within {timeout:g} s") from None
        except (OSError, RuntimeError, trio.BrokenResourceError, h11.RemoteProtocolError) as error:
            raise Unavailable(f"Envoy's admin at {self._socket} does not answer {method} {target}: {error}") from error


def _levels(body: bytes) -> dict[str, str]:
    """Of ``active loggers:``, a line each."""
    pairs = (line.strip().partition(": ") for line in body.decode(errors="replace").splitlines()[1:])
    return {name: level for name, between, level in pairs if between}


async def _exchange(stream: trio.SocketStream, method: str, target: str) -> Reply:
    connection = h11.Connection(h11.CLIENT)
    request = h11.Request(
        method=method, target=target, headers=[("Host", "envoy"), ("Connection", "close"), ("Content-Length", "0")]
    )
    await stream.send_all((connection.send(request) or b"") + (connection.send(h11.EndOfMessage()) or b""))
    status = 0
    body = bytearray()
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await stream.receive_some(_CHUNK))
        elif isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > MAX_REPLY_BYTES:
                raise Unavailable(f"Envoy's admin answers {target} with more than {MAX_REPLY_BYTES} bytes")
        elif isinstance(event, h11.EndOfMessage):
            return Reply(status, bytes(body))
        elif isinstance(event, h11.ConnectionClosed):
            raise Unavailable(f"Envoy's admin closed the connection before it answered {target}")
