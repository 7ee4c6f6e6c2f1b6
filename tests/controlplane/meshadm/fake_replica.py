"""A replica in process: real gRPC, its answers scripted by the test. It keeps objects, and writes once a request id."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import trio
from click.testing import CliRunner, Result
from google.protobuf.message import Message

from controlplane.meshadm.__main__ import main
from schemas import codec
from schemas.api import mesh_pb2 as pb
from schemas.objects import AnyObject
from schemas.questions import Answer
from schemas.records import AnyRecord, TrustBundle
from trio_grpc import (
    Context,
    Listener,
    Method,
    RpcAbort,
    Send,
    ServerTLS,
    StatusCode,
    serve,
    server_stream,
    unary,
)

Key = tuple[str, str, str]
UNTIL = 4_000_000_000  # 2096


def key_of(message: pb.ObjectKey) -> Key:
    return (message.kind, message.namespace, message.name)


@dataclass(slots=True)
class FakeReplica:
    """`refuse[path]` are errors that the next calls of a path get, in order; None lets one through."""

    objects: dict[Key, tuple[bytes, int]] = field(default_factory=dict)
    revision: int = 10
    statuses: list[bytes] = field(default_factory=list)
    revocations: list[bytes] = field(default_factory=list)
    alarms: list[str] = field(default_factory=list)
    domains: list[pb.FederatedDomain] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    silent: list[str] = field(default_factory=list)
    past: dict[int, dict[Key, tuple[bytes, int]]] = field(default_factory=dict)
    """The objects that there were at a revision; those of others can't be had any more."""
    waits: list[list[pb.WaitProgress]] = field(default_factory=list)
    """What each call of Wait tells; after the last message it goes on for ever, unless that says done."""
    watches: list[list[pb.WatchEvent]] = field(default_factory=list)
    """What each call of Watch tells; it is then cut, but for the last, which goes on for ever."""
    refuse: dict[str, list[RpcAbort | None]] = field(default_factory=dict)
    refuse_after: dict[str, list[RpcAbort | None]] = field(default_factory=dict)
    """The same, after the work has been done."""
    requests: list[tuple[str, Message]] = field(default_factory=list)
    waiting: trio.Event = field(default_factory=trio.Event)
    """Set when a Wait has told all that it has."""
    _done: dict[str, pb.ApplyReply] = field(default_factory=dict)

    def add(self, *values: AnyObject) -> None:
        for value in values:
            self.revision += 1
            key = (value.ref.kind, value.ref.namespace, value.ref.name)
            self.objects[key] = (codec.encode(value), self.revision)

    def report(self, *records: AnyRecord) -> None:
        self.statuses += [codec.encode(record) for record in records]

    def seen(self, type_: type[Message]) -> list[Message]:
        return [request for _, request in self.requests if type(request) is type_]

    # -- the API

    def _enter(self, path: str, request: Message) -> None:
        self.requests.append((path, request))
        self._fail(self.refuse, path)

    @staticmethod
    def _fail(faults: dict[str, list[RpcAbort | None]], path: str) -> None:
        if faults.get(path):
            fault = faults[path].pop(0)
            if fault is not None:
                raise fault

    async def apply(self, request: pb.ApplyRequest, context: Context) -> pb.ApplyReply:
        self._enter("Apply", request)
        reply = self._done.get(request.request_id) if not request.dry_run else None
        if reply is None:
            reply = self._written(request)
        self._fail(self.refuse_after, "Apply")
        return reply

    def _written(self, request: pb.ApplyRequest) -> pb.ApplyReply:
        reply = pb.ApplyReply()
        after = dict(self.objects)
        for change in request.changes:
            if change.WhichOneof("what") == "delete":
                key, data = change.delete, b""
                if key_of(key) not in after:
                    raise RpcAbort(StatusCode.NOT_FOUND, f"{key.kind} {key.namespace}/{key.name}: does not exist")
                del after[key_of(key)]
                action = pb.Outcome.DELETED
            else:
                plain = msgspec.msgpack.decode(change.put)
                metadata = plain["metadata"]
                key = pb.ObjectKey(
                    kind=plain["kind"], namespace=metadata.get("namespace", "default"), name=metadata["name"]
                )
                data = change.put
                old = after.get(key_of(key))
                if change.expected_revision and (old is None or old[1] != change.expected_revision):
                    raise RpcAbort(StatusCode.ABORTED, f"{key.kind} {key.namespace}/{key.name} has changed")
                action = pb.Outcome.CREATED if old is None else pb.Outcome.UPDATED
                if old is not None and old[0] == data:
                    action = pb.Outcome.UNCHANGED
                else:
                    after[key_of(key)] = (data, self.revision + 1)
            reply.outcomes.append(pb.Outcome(key=key, action=action))
        changed = any(one.action != pb.Outcome.UNCHANGED for one in reply.outcomes)
        if changed and not request.dry_run:
            self.revision += 1
            reply.revision = self.revision
            self.objects = after
            self._done[request.request_id] = reply
        return reply

    async def get(self, request: pb.GetRequest, context: Context) -> pb.StoredObject:
        self._enter("Get", request)
        found = self._at(request.revision).get(key_of(request.key))
        if found is None:
            key = request.key
            raise RpcAbort(StatusCode.NOT_FOUND, f"{key.kind} {key.namespace}/{key.name} does not exist")
        return pb.StoredObject(key=request.key, value=found[0], revision=found[1])

    async def list(self, request: pb.ListRequest, context: Context) -> pb.ListReply:
        self._enter("List", request)
        reply = pb.ListReply(revision=self.revision)
        for (kind, namespace, name), (value, revision) in self._at(request.revision).items():
            if kind == request.kind and request.namespace in ("", namespace):
                key = pb.ObjectKey(kind=kind, namespace=namespace, name=name)
                reply.objects.append(pb.StoredObject(key=key, value=value, revision=revision))
        return reply

    def _at(self, revision: int) -> dict[Key, tuple[bytes, int]]:
        if revision and revision not in self.past:
            raise RpcAbort(StatusCode.NOT_FOUND, f"revision {revision} can't be read: compacted")
        return self.past[revision] if revision else self.objects

    async def ask(self, request: pb.AskRequest, context: Context) -> pb.AskReply:
        self._enter("Ask", request)
        return pb.AskReply(answers=map(codec.encode, self.answers), silent=self.silent)

    async def federation(self, request: pb.FederationStatusRequest, context: Context) -> pb.FederationStatusReply:
        self._enter("Federation", request)
        return pb.FederationStatusReply(domains=self.domains)

    async def sidecars(self, request: pb.ListSidecarsRequest, context: Context) -> pb.ListSidecarsReply:
        self._enter("Sidecars", request)
        return pb.ListSidecarsReply(statuses=self.statuses, config_revision=self.revision, alarms=self.alarms)

    async def set_log_level(self, request: pb.SetLogLevelRequest, context: Context) -> pb.SetLogLevelReply:
        """A sidecar of shop/orders runs it at once, but for loggers that it does not have; any other one never."""
        self._enter("SetLogLevel", request)
        self.revision += 1
        until = UNTIL if request.level or request.components else 0
        known = {name: level for name, level in request.components.items() if name in ("http", "agent")}
        levels = {"level": request.level or None, "components": known, "until": until} if until else None
        for number, data in enumerate(self.statuses):
            status = msgspec.msgpack.decode(data)
            if (status["service"], status["instance"]) == ("orders", request.instance):
                self.statuses[number] = msgspec.msgpack.encode({**status, "logLevels": levels})
        return pb.SetLogLevelReply(revision=self.revision, until=until)

    async def list_revocations(self, request: pb.ListRevocationsRequest, context: Context) -> pb.ListRevocationsReply:
        return pb.ListRevocationsReply(revocations=self.revocations, revision=self.revision)

    async def revoke(self, request: pb.RevokeIdentityRequest, context: Context) -> pb.RevocationReply:
        self._enter("Revoke", request)
        self.revision += 1
        return pb.RevocationReply(revision=self.revision)

    async def wait(self, request: pb.WaitRequest, send: Send[pb.WaitProgress], context: Context) -> None:
        self._enter("Wait", request)
        script = self.waits.pop(0) if self.waits else [pb.WaitProgress(done=True)]
        for message in script:
            told = pb.WaitProgress()
            told.CopyFrom(message)
            told.revision = request.revision
            await send(told)
        self.waiting.set()
        if not script or not script[-1].done:
            if self.waits:
                return  # cut: what follows is told to the next call
            await trio.sleep_forever()

    async def watch(self, request: pb.WatchRequest, send: Send[pb.WatchEvent], context: Context) -> None:
        self._enter("Watch", request)
        for message in self.watches.pop(0) if self.watches else []:
            await send(message)
        if not self.watches:
            await trio.sleep_forever()

    async def create_token(self, request: pb.CreateTokenRequest, context: Context) -> pb.CreateTokenReply:
        self._enter("CreateToken", request)
        bundle = TrustBundle(trust_domain="example.org", sequence=1, x509_authorities=(b"\x30\x00",))
        return pb.CreateTokenReply(
            token="mjt1.id.secret",
            expires=4_000_000_000,
            trust_bundle=codec.encode(bundle),
            join_endpoints=["10.0.0.1:7444"],
            api_endpoints=["10.0.0.1:7443"],
            trust_domain="example.org",
        )

    def methods(self) -> dict[str, Method]:
        def one(handler: Callable[..., object], request: type[Message]) -> Method:
            return unary(handler, request.FromString, lambda reply: reply.SerializeToString())  # type: ignore[arg-type]  # erased in a table

        def many(handler: Callable[..., object], request: type[Message]) -> Method:
            return server_stream(handler, request.FromString, lambda reply: reply.SerializeToString())  # type: ignore[arg-type]  # erased in a table

        return {
            "/mesh.v1.Config/Apply": one(self.apply, pb.ApplyRequest),
            "/mesh.v1.Config/Get": one(self.get, pb.GetRequest),
            "/mesh.v1.Config/List": one(self.list, pb.ListRequest),
            "/mesh.v1.Config/Watch": many(self.watch, pb.WatchRequest),
            "/mesh.v1.Revocations/List": one(self.list_revocations, pb.ListRevocationsRequest),
            "/mesh.v1.Revocations/Revoke": one(self.revoke, pb.RevokeIdentityRequest),
            "/mesh.v1.Federation/Status": one(self.federation, pb.FederationStatusRequest),
            "/mesh.v1.Questions/Ask": one(self.ask, pb.AskRequest),
            "/mesh.v1.Sidecars/List": one(self.sidecars, pb.ListSidecarsRequest),
            "/mesh.v1.Sidecars/SetLogLevel": one(self.set_log_level, pb.SetLogLevelRequest),
            "/mesh.v1.Sidecars/Wait": many(self.wait, pb.WaitRequest),
            "/mesh.v1.Tokens/Create": one(self.create_token, pb.CreateTokenRequest),
        }


@dataclass(frozen=True, slots=True)
class Cli:
    """`meshadm` called against `endpoints`, in a thread of its own as it makes its own trio run.

    One call at a time: click's runner takes over the standard streams of the process.
    """

    endpoints: Sequence[str]

    async def __call__(self, *args: str, stdin: str | bytes | None = None) -> Result:
        environment = {"MESHADM_ENDPOINT": " ".join(self.endpoints), "MESHADM_DEBUG": "1"}
        return await run_cli(args, environment, stdin)

    async def ok(self, *args: str, stdin: str | bytes | None = None) -> str:
        """Standard output of a call that must succeed."""
        result = await self(*args, stdin=stdin)
        assert result.exit_code == 0, (result.exit_code, result.stdout, result.stderr)
        return result.stdout


async def run_cli(args: Sequence[str], environment: dict[str, str], stdin: str | bytes | None = None) -> Result:
    def invoke() -> Result:
        return CliRunner(env={"XDG_CONFIG_HOME": "/nonexistent", **environment}).invoke(
            main, list(args), input=stdin, prog_name="meshadm"
        )

    return await trio.to_thread.run_sync(invoke)


@asynccontextmanager
async def serving(replica: FakeReplica, address: str, tls: ServerTLS | None = None) -> AsyncIterator[str]:
    """The endpoint at which it serves. `address`: a Unix socket's path, or 127.0.0.1:0."""

    def on_error(path: str, error: Exception) -> None:
        raise AssertionError(f"{path}: {error!r}") from error

    listener = Listener(address if ":" in address else f"unix:{address}", tls)
    async with serve(replica.methods(), [listener], on_error=on_error) as server:
        yield f"127.0.0.1:{server.bound_ports[0]}" if server.bound_ports[0] else listener.address


def socket_in(directory: Path, name: str = "api.sock") -> str:
    return str(directory / name)
