"""[edge] One question to the app. Each raises Failed with the reason; who calls sets the time limit."""

import contextlib
import os
import signal
import subprocess

import trio
from google.protobuf import wrappers_pb2
from google.protobuf.message import DecodeError

from dataplane.health.plan import Plan
from trio_grpc import Channel, RpcError

# Bytes. A status line is some 20; what a command says is a line for a log.
_HEAD_BYTES = 4096
_SAID_BYTES = 200
_SERVING = 1  # grpc.health.v1.HealthCheckResponse.ServingStatus
_NO_PROXY = (("grpc.enable_http_proxy", 0),)  # grpcio would else take its proxy from the environment


class Failed(Exception):
    """The app did not answer, or not that it is well."""


async def probe(plan: Plan) -> None:
    """Raises Failed, also when `plan.timeout` is over."""
    with trio.move_on_after(plan.timeout) as scope:
        match plan.type:
            case "HTTP":
                await _http(plan)
            case "TCP":
                await (await _connected(plan)).aclose()
            case "GRPC":
                await _grpc(plan)
            case "Command":
                await _command(plan)
    if scope.cancelled_caught:
        raise Failed(f"no answer within {plan.timeout:g} s")


async def _connected(plan: Plan) -> trio.SocketStream:
    try:
        return await trio.open_tcp_stream(plan.address, plan.port)
    except OSError as error:
        reason = error.strerror or str(error)
        raise Failed(f"no connection to {plan.address} port {plan.port}: {reason}") from error


async def _http(plan: Plan) -> None:
    """HTTP/1.1, one request a connection."""
    host = plan.http.hostname or _authority(plan)
    lines = (f"GET {plan.http.path} HTTP/1.1", f"Host: {host}", "User-Agent: mesh-health", "Connection: close", "", "")
    head = b""
    async with await _connected(plan) as stream:
        try:
            await stream.send_all("\r\n".join(lines).encode())
            while b"\n" not in head and len(head) < _HEAD_BYTES:
                part = await stream.receive_some()
                if not part:
                    break
                head += part
        except trio.BrokenResourceError as error:
            raise Failed("the app closed the connection without an answer") from error
    # RFC 9112, 4: HTTP-version SP status-code SP reason
    words = head.split(b"\n", 1)[0].split(b" ", 2)
    if not words[0].startswith(b"HTTP/1.") or len(words) < 2 or not words[1].strip().isdigit():
        raise Failed(f"no HTTP/1 answer to GET {plan.http.path}")
    status = int(words[1])
    if status not in plan.http.expected_statuses:
        raise Failed(f"GET {plan.http.path} was answered with {status}")


def _authority(plan: Plan) -> str:
    host = f"[{plan.address}]" if ":" in plan.address else plan.address
    return f"{host}:{plan.port}"


async def _grpc(plan: Plan) -> None:
    """grpc.health.v1.Health/Check: a string in field 1 is asked, an enum in field 1 is the answer. The wrapper types
    of protobuf have the same form."""
    request = wrappers_pb2.StringValue(value=plan.grpc.service).SerializeToString()
    # A new channel each time: one that failed would wait longer and longer before it tries again.
    with Channel(_authority(plan), options=_NO_PROXY) as channel:
        try:
            answer = await channel.unary("/grpc.health.v1.Health/Check", request, timeout=plan.timeout)
            status = wrappers_pb2.Int32Value.FromString(answer).value
        except RpcError as error:
            raise Failed(f"gRPC health check: {error}") from error
        except DecodeError as error:
            raise Failed("gRPC health check: an answer that can't be read") from error
    if status != _SERVING:
        raise Failed(f"gRPC health check of {plan.grpc.service or 'the server'}: not serving ({status})")


async def _command(plan: Plan) -> None:
    """Exit status 0 is well. It runs as the sidecar's user."""
    try:
        process = await trio.lowlevel.open_process(
            plan.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        raise Failed(f"{plan.command[0]} can't be run: {error.strerror}") from error
    said, ended = b"", False
    try:
        if process.stdout is not None:
            while part := await process.stdout.receive_some():
                said = (said + part)[-_SAID_BYTES:]
        status = await process.wait()
        ended = True
    finally:
        if not ended:
            # Its time is over, and that of all that it has started, which may have outlived it. Nobody has asked how it
            # ended, so its number is nobody else's yet.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            with trio.CancelScope(shield=True):
                await process.wait()
    if status:
        text = said.decode(errors="replace").strip().replace("\n", " | ")
        raise Failed(f"{plan.command[0]} ended with {status}{': ' + text if text else ''}")
