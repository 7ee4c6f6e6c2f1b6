"""The audit: every RPC, accepted and refused, leaves one event that says who, from where, what, and no secret."""

from __future__ import annotations

import contextlib
import json
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
import trio
from google.protobuf.message import Message

import trio_etcd
from controlplane.api.audit import QUIET, Audit
from controlplane.api.authorize import ALLOWED
from controlplane.api.caller import Listener
from controlplane.api.convert import key_of
from controlplane.log import JsonFormatter, KeyValueFormatter, event, redacted
from schemas import codec
from schemas.api import mesh_pb2 as pb
from schemas.objects import Metadata, TrustBundle
from schemas.objects.federation import BundleEndpoint, TrustBundleSpec
from tests.controlplane.access import (
    Person,
    forget_hosts,
    join_with_certificate,
    log_in,
    login_token,
    trust_hosts,
    use_login_token,
)
from tests.controlplane.api.test_operators import put
from tests.controlplane.api.test_questions import answer, next_question
from tests.controlplane.replica import TRUST_DOMAIN, Caller, Joined, Replica, new_csr, new_id
from tests.states.build import authentication
from tests.support.net import eventually
from tests.support.pki import Authority
from trio_grpc import TLS, RpcError

# What changes the CA is driven, accepted, by the tests of its life: here it would change the CA of all other tests.
OF_THE_CA = {
    f"Authority/{name}"
    for name in ("Rotate", "StopRotation", "Prepare", "Activate", "Retire", "Remove", "Request", "Install", "Reseal")
}
RPCS = sorted(path.removeprefix("/mesh.v1.") for path in ALLOWED)


class Events(logging.Handler):
    """What is logged, as fields."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def of(self, rpc: str, outcome: str) -> list[dict[str, object]]:
        found = [one for one in self.records if one.name == "mesh.audit" and one.getMessage() == outcome]
        return [one.fields for one in found if one.fields["rpc"] == f"/mesh.v1.{rpc}"]  # type: ignore[attr-defined]  # set by event()

    @property
    def text(self) -> str:
        """All lines of all loggers, in both forms."""
        forms = (KeyValueFormatter(journal=False), JsonFormatter())
        return "\n".join(form.format(record) for record in self.records for form in forms)


@pytest.fixture
def events() -> Iterator[Events]:
    handler, root = Events(), logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield handler
    root.removeHandler(handler)
    root.setLevel(before)


@dataclass
class World:
    """All kinds of caller at one replica."""

    replica: Replica
    namespace: str
    root: Caller
    stranger: Caller
    sidecar: Caller
    joined: Joined
    operator: Caller
    person: Person
    secrets: list[str] = field(default_factory=list)

    async def call(self, caller: Caller, rpc: str, request: Message) -> None:
        await caller.call(rpc, request, pb.ReportReply)

    async def first_of(self, caller: Caller, rpc: str, request: Message) -> None:
        """A stream: until it has begun."""
        with trio.move_on_after(1):
            async with caller.stream(rpc, request, pb.WatchEvent) as following:
                await following()


Drive = Callable[[World], Awaitable[None]]


async def _join(world: World) -> None:
    await world.replica.join("orders", world.namespace)


async def _login(world: World) -> None:
    token = await login_token(world.replica, world.person.name)
    world.secrets.append(token.token.split(".")[2])
    await use_login_token(world.replica, world.person.name, token)


async def _revoke_token(world: World) -> None:
    token = await world.replica.token("orders", world.namespace)
    world.secrets.append(token.token.split(".")[2])
    await world.call(world.root, "Tokens/Revoke", pb.RevokeTokenRequest(request_id=new_id(), id=token.id))


async def _revoke_operator(world: World) -> None:
    name = f"gone-{secrets.token_hex(4)}"
    grant = pb.GrantOperatorRequest(request_id=new_id(), name=name, role="viewer")
    await world.call(world.root, "Operators/Grant", grant)
    await world.call(world.root, "Operators/Revoke", pb.RevokeOperatorRequest(request_id=new_id(), name=name))


async def _revoke_identity(world: World) -> None:
    name = f"gone-{secrets.token_hex(4)}"
    where = {"namespace": world.namespace, "service": name, "reason": "stolen"}
    await world.call(world.root, "Revocations/Revoke", pb.RevokeIdentityRequest(request_id=new_id(), **where))
    await world.call(world.root, "Revocations/Restore", pb.RestoreIdentityRequest(request_id=new_id(), **where))


async def _attestors(world: World) -> None:
    await trust_hosts(world.replica, world.namespace, Authority.create(), any=f"{world.namespace}/*")
    await forget_hosts(world.replica, world.namespace)


async def _sidecar(world: World) -> None:
    lease = (await world.joined.register(world.sidecar, "a")).lease_id
    await world.joined.report(world.sidecar, "a", lease, acked_revision=1)
    levels = pb.SetLogLevelRequest(
        request_id=new_id(), namespace=world.namespace, service="web", instance="a", level="debug",
        components={"http": "trace"}, seconds=60,
    )  # fmt: skip
    await world.call(world.operator, "Sidecars/SetLogLevel", levels)
    request = pb.DeregisterRequest(instance="a", lease_id=lease)
    await world.call(world.sidecar, "Sidecars/Deregister", request)


def etcd_of(replica: Replica) -> contextlib.AbstractAsyncContextManager[trio_etcd.Client]:
    files = replica.config.etcd
    tls = TLS(*(Path(path).read_bytes() for path in (files.ca, files.cert, files.key)))
    return trio_etcd.open_etcd(files.endpoints, tls=tls)


async def _question(world: World) -> None:
    await world.joined.register(world.sidecar, "a")
    asked = pb.AskRequest(about="request", request_id="id-1", services=[f"web.{world.namespace}"])
    async with etcd_of(world.replica) as etcd, trio.open_nursery() as nursery:
        nursery.start_soon(world.call, world.operator, "Questions/Ask", asked)
        with trio.fail_after(10):
            question = await next_question(etcd)
        value = answer(world.joined, "a")
        await world.call(
            world.sidecar,
            "Questions/Answer",
            pb.AnswerRequest(instance="a", question=question.id, answer=value),
        )


async def _fetch(world: World) -> None:
    """From where nobody answers: asking is what is to be seen."""
    trust_domain = f"{world.namespace}.example"
    endpoint = BundleEndpoint(url="https://127.0.0.1:1/", profile="https_web")
    value = TrustBundle(
        api_version="mesh/v1",
        metadata=Metadata(name=world.namespace, namespace="mesh-system"),
        spec=TrustBundleSpec(trust_domain=trust_domain, bundle_endpoint=endpoint),
    )
    await world.root.apply(pb.Change(put=codec.encode(value)))
    await world.call(world.root, "Federation/Fetch", pb.FetchBundleRequest(trust_domain=trust_domain))
    await world.root.apply(pb.Change(delete=key_of(value.ref)))


async def _fetch_keys(world: World) -> None:
    uri = "https://127.0.0.1:1/keys"
    value = authentication("people", {"issuer": "https://one.example", "jwksUri": uri})
    await world.root.apply(pb.Change(put=codec.encode(value)))

    async def named() -> bool:
        reply = await world.root.call("KeySets/Status", pb.KeySetsRequest(), pb.KeySetsReply)
        return any(one.uri == uri for one in reply.key_sets)

    await eventually("the replica knows the place", named)
    await world.call(world.root, "KeySets/Fetch", pb.FetchKeySetsRequest(uri=uri))
    await world.root.apply(pb.Change(delete=key_of(value.ref)))


def simply(who: str, rpc: str, request: Callable[[World], Message]) -> Drive:
    async def drive(world: World) -> None:
        await world.call(getattr(world, who), rpc, request(world))

    return drive


def streaming(rpc: str, request: Message) -> Drive:
    async def drive(world: World) -> None:
        await world.first_of(world.operator, rpc, request)

    return drive


ACCEPTED: dict[str, Drive] = {
    "Config/Apply": simply(
        "operator", "Config/Apply", lambda world: pb.ApplyRequest(request_id=new_id(), changes=[put(world.namespace)])
    ),
    "Config/Get": simply(
        "operator",
        "Config/Get",
        lambda _: pb.GetRequest(key=pb.ObjectKey(kind="Mesh", namespace="mesh-system", name="mesh")),
    ),
    "Config/List": simply("operator", "Config/List", lambda _: pb.ListRequest()),
    "Config/Watch": streaming("Config/Watch", pb.WatchRequest()),
    "Identity/Challenge": simply("stranger", "Identity/Challenge", lambda _: pb.ChallengeRequest()),
    "Identity/Join": _join,
    "Identity/Login": _login,
    "Identity/Renew": simply(
        "sidecar", "Identity/Renew", lambda _: pb.RenewRequest(csr=new_csr()[1], etcd_csr=new_csr()[1])
    ),
    "Identity/RenewBatch": simply(
        "sidecar",
        "Identity/RenewBatch",
        lambda _: pb.RenewBatchRequest(items=[pb.RenewRequest(csr=new_csr()[1], etcd_csr=new_csr()[1])]),
    ),
    "Identity/RenewLogin": simply("operator", "Identity/RenewLogin", lambda _: pb.RenewLoginRequest(csr=new_csr()[1])),
    "Identity/IssueX509": simply("sidecar", "Identity/IssueX509", lambda _: pb.IssueX509Request(csr=new_csr()[1])),
    "Identity/IssueJwt": simply("sidecar", "Identity/IssueJwt", lambda _: pb.IssueJwtRequest(audience=["a"])),
    "Tokens/Create": _join,
    "Tokens/List": simply("operator", "Tokens/List", lambda _: pb.ListTokensRequest()),
    "Tokens/Revoke": _revoke_token,
    "Revocations/List": simply("operator", "Revocations/List", lambda _: pb.ListRevocationsRequest()),
    "Revocations/EtcdList": simply("operator", "Revocations/EtcdList", lambda _: pb.EtcdListRequest()),
    "Revocations/Revoke": _revoke_identity,
    "Revocations/Restore": _revoke_identity,
    "Operators/List": simply("operator", "Operators/List", lambda _: pb.ListOperatorsRequest()),
    "Operators/Grant": _revoke_operator,
    "Operators/Revoke": _revoke_operator,
    "Attestors/List": simply("operator", "Attestors/List", lambda _: pb.ListAttestorsRequest()),
    "Attestors/Put": _attestors,
    "Attestors/Delete": _attestors,
    "Attestors/Where": simply("operator", "Attestors/Where", lambda _: pb.WhereRequest()),
    "Sidecars/Register": _sidecar,
    "Sidecars/Deregister": _sidecar,
    "Sidecars/Report": _sidecar,
    "Sidecars/SetLogLevel": _sidecar,
    "Sidecars/List": simply("operator", "Sidecars/List", lambda _: pb.ListSidecarsRequest()),
    "Sidecars/Wait": streaming("Sidecars/Wait", pb.WaitRequest(revision=1)),
    "Questions/Ask": _question,
    "Questions/Answer": _question,
    "Authority/Status": simply("operator", "Authority/Status", lambda _: pb.AuthorityStatusRequest()),
    "Authority/Follow": streaming("Authority/Follow", pb.FollowRotationRequest()),
    "Federation/Status": simply("operator", "Federation/Status", lambda _: pb.FederationStatusRequest()),
    "Federation/Bundle": simply("operator", "Federation/Bundle", lambda _: pb.BundleRequest()),
    "Federation/Fetch": _fetch,
    "KeySets/Status": simply("operator", "KeySets/Status", lambda _: pb.KeySetsRequest()),
    "KeySets/Fetch": _fetch_keys,
}

# What says where the effect is: of a write the revision, of an issue who it was for.
REVISION = {
    "Config/Apply", "Identity/Join", "Identity/Login", "Tokens/Create", "Tokens/Revoke", "Operators/Grant",
    "Operators/Revoke", "Attestors/Put", "Attestors/Delete", "Sidecars/Register", "Sidecars/Deregister",
    "Revocations/Revoke", "Revocations/Restore", "Sidecars/SetLogLevel",
}  # fmt: skip
ISSUED = {"Identity/Join", "Identity/Login", "Identity/Renew", "Identity/RenewLogin", "Identity/IssueX509"}
ISSUED_MORE = {"Identity/RenewBatch"}
TOKENS = {"Identity/IssueJwt"}


@pytest.fixture
async def world(replica: Replica, namespace: str) -> AsyncIterator[World]:
    name = f"anna-{secrets.token_hex(4)}"
    joined = await replica.join("web", namespace)
    person = await log_in(replica, name, "admin")
    async with (
        replica.admin() as root,
        replica.stranger(joined.reply.trust_bundle) as stranger,
        joined.calls() as sidecar,
        person.calls() as operator,
    ):
        yield World(replica, namespace, root, stranger, sidecar, joined, operator, person)


def test_every_rpc_is_driven() -> None:
    assert ACCEPTED.keys() | OF_THE_CA == set(RPCS)
    assert {f"/mesh.v1.{rpc}" for rpc in RPCS} >= QUIET


async def test_every_accepted_call_leaves_its_event(world: World, events: Events) -> None:
    for rpc, drive in ACCEPTED.items():
        events.records.clear()
        await drive(world)
        await eventually(f"the event of {rpc}", partial(events.of, rpc, "accepted"))
        said = events.of(rpc, "accepted")[-1]
        assert said["caller"], rpc
        assert said["caller"] != "unknown", rpc
        assert said["role"], rpc
        assert said["peer"] == "unix" or "127.0.0.1" in str(said["peer"]), rpc
        assert said["listener"] in ("api", "join", "socket"), rpc
        if rpc in REVISION:
            assert int(str(said["revision"])) > 0, rpc
        if rpc in ISSUED:
            assert str(said["identity"]).startswith(f"spiffe://{TRUST_DOMAIN}/"), rpc
            assert said["serial"], rpc
            assert said["expires"], rpc
        if rpc in TOKENS:
            assert (said["identity"], said["audience"]) == (world.joined.reply.spiffe_id, "a")
            assert said["expires"], rpc
        if rpc in ISSUED_MORE:
            assert (said["issued"], len(str(said["serials"]).split(", "))) == (1, 1), rpc
        if rpc == "Sidecars/SetLogLevel":
            ordered = (said["sidecar"], said["levels"], said["seconds"])
            assert ordered == (f"{world.namespace}/web.a", "debug, http=trace", 60)
            assert said["until"], rpc
        level = next(one.levelno for one in events.records if getattr(one, "fields", None) is said)
        assert level == (logging.DEBUG if f"/mesh.v1.{rpc}" in QUIET else logging.INFO), rpc
        for secret in world.secrets:
            assert secret not in events.text, rpc


async def test_every_refused_call_leaves_its_event(world: World, events: Events) -> None:
    for rpc in RPCS:
        roles = {role.value for role in ALLOWED[f"/mesh.v1.{rpc}"]}
        who = "sidecar" if "anonymous" in roles else "stranger"
        events.records.clear()
        caller: Caller = getattr(world, who)
        with pytest.raises(RpcError):
            await caller.call(rpc, pb.ListRequest(), pb.ListReply)
        (said,) = events.of(rpc, "refused")
        assert said["status"] == "PERMISSION_DENIED", rpc
        assert rpc in str(said["why"])
        assert said["role"] == ("sidecar" if who == "sidecar" else "anonymous")
        assert said["caller"] == (world.joined.reply.spiffe_id if who == "sidecar" else "anonymous")
        assert "127.0.0.1" in str(said["peer"])
        assert not events.of(rpc, "accepted")


async def test_bytes_that_are_no_request_are_refused_in_the_audit_too(world: World, events: Events) -> None:
    """To who may ask as bad input; to who may not as to all others, before a word about the bytes."""
    for rpc in RPCS:
        roles = {role.value for role in ALLOWED[f"/mesh.v1.{rpc}"]}
        may = world.stranger if "anonymous" in roles else world.sidecar if "sidecar" in roles else world.operator
        may_not = world.stranger if may is not world.stranger else world.sidecar
        events.records.clear()
        for caller in (may, may_not):
            with pytest.raises(RpcError):
                await unreadable(caller, rpc)
        bad, forbidden = events.of(rpc, "refused")
        assert (bad["status"], forbidden["status"]) == ("INVALID_ARGUMENT", "PERMISSION_DENIED"), rpc
        assert "its bytes are no" in str(bad["why"]), rpc
        assert not events.of(rpc, "accepted"), rpc


async def unreadable(caller: Caller, rpc: str) -> None:
    """A length-delimited field that ends before its length."""
    with caller.channel.server_stream(f"/mesh.v1.{rpc}", b"\x0a\x7f") as stream, trio.fail_after(10):
        await stream.receive()


async def test_what_is_refused_of_a_batch_is_an_event_of_its_own(world: World, events: Events) -> None:
    good = pb.RenewRequest(csr=new_csr()[1], etcd_csr=new_csr()[1])
    request = pb.RenewBatchRequest(items=[good, pb.RenewRequest(csr=b"x", etcd_csr=b"y"), good])
    await world.call(world.sidecar, "Identity/RenewBatch", request)
    (refused,) = events.of("Identity/RenewBatch", "refused")
    assert str(refused["why"]).startswith("item 2: certificate request: not a readable request")
    assert refused["caller"] == world.joined.reply.spiffe_id
    (accepted,) = events.of("Identity/RenewBatch", "accepted")
    assert accepted["issued"] == 2
    assert accepted["identity"] == world.joined.reply.spiffe_id


async def test_refusals_say_what_they_were_about(world: World, events: Events) -> None:
    token = await world.replica.token("orders", world.namespace)
    request = pb.JoinRequest(token=token.token, csr=b"no request", etcd_csr=b"")
    with pytest.raises(RpcError):
        await world.call(world.stranger, "Identity/Join", request)
    (said,) = events.of("Identity/Join", "refused")
    assert (said["token"], said["attestor"]) == (token.id, "join_token")
    host = Authority.create().issue("db1", dns=["db1.example.org"])
    with pytest.raises(RpcError):
        await join_with_certificate(world.stranger, host, world.namespace, "orders")
    said = events.of("Identity/Join", "refused")[-1]
    assert (said["host"], said["attestor"]) == ("dns:db1.example.org, cn:db1", "x509_pop")
    with pytest.raises(RpcError):
        await world.operator.apply(pb.Change(delete=pb.ObjectKey(kind="Service", namespace=world.namespace, name="x")))
    said = events.of("Config/Apply", "refused")[-1]
    assert f"Service {world.namespace}/x" in str(said["objects"])
    assert said["caller"] == world.person.reply.spiffe_id


@pytest.mark.parametrize(
    ("end", "outcome"), [(None, "accepted"), ("cancelled", "abandoned by its caller"), ("defect", "failed")]
)
async def test_no_call_ends_without_an_event(events: Events, end: str | None, outcome: str) -> None:
    """Also one whose caller goes away in the middle of a write, and one that ends by a defect of ours."""
    with trio.CancelScope() as scope, contextlib.suppress(ZeroDivisionError), Audit("/mesh.v1.X/Y", Listener.API, "p"):
        if end == "cancelled":
            scope.cancel()
        await trio.lowlevel.checkpoint()
        if end == "defect":
            _ = 1 // 0
    (said,) = events.of("X/Y", outcome)
    assert (said["caller"], said["peer"], said["listener"]) == ("unknown", "p", "api")


async def test_no_secret_is_in_any_line_or_answer(world: World, events: Events) -> None:
    """Tokens used well, used badly, and put where they do not belong."""
    join = await world.replica.token("orders", world.namespace)
    login = await login_token(world.replica, world.person.name)
    texts = [join.token, login.token]
    answers: list[str] = []
    for text in texts:
        for rpc, request in (
            ("Identity/Join", pb.JoinRequest(token=text)),
            ("Identity/Join", pb.JoinRequest(token=text + "A")),
            ("Identity/Login", pb.LoginRequest(token=text)),
            ("Identity/Login", pb.LoginRequest(token=text.upper())),
            ("Identity/Join", pb.JoinRequest(token=join.token, namespace=text, service=text)),
        ):
            with pytest.raises(RpcError) as caught:
                await world.call(world.stranger, rpc, request)
            answers.append(f"{caught.value} {caught.value.trailing}")
        wrong: Sequence[tuple[str, Message]] = (
            ("Tokens/Revoke", pb.RevokeTokenRequest(request_id=new_id(), id=text)),
            ("Tokens/Create", pb.CreateTokenRequest(request_id=new_id(), namespace=text, service=text)),
            ("Tokens/Create", pb.CreateTokenRequest(request_id=text, namespace="shop", service="orders")),
            ("Operators/Grant", pb.GrantOperatorRequest(request_id=new_id(), name=text, role=text)),
            ("Operators/Grant", pb.GrantOperatorRequest(request_id=new_id(), name="x", role=text)),
            ("Attestors/Delete", pb.DeleteAttestorRequest(request_id=new_id(), name=text)),
            ("Config/Get", pb.GetRequest(key=pb.ObjectKey(kind=text, namespace=text, name=text))),
        )
        for rpc, other in wrong:
            with pytest.raises(RpcError) as caught:
                await world.call(world.root, rpc, other)
            answers.append(f"{caught.value} {caught.value.trailing}")
    for text in texts:
        secret = text.split(".")[2]
        assert secret not in events.text
        assert not [one for one in answers if secret in one]
        assert secret.upper() not in events.text
    assert "PRIVATE KEY" not in events.text


def test_what_looks_like_a_secret_is_blotted_out() -> None:
    secret = "s3cr3t" * 6
    for text in (f"mjt1.0011223344556677.{secret}", f"mlt1.x.{secret}", f"'mjt1.a.{secret}' is no name"):
        assert secret not in redacted(text)
        assert redacted(text).count("[redacted]") == 1
    key = f"-----BEGIN PRIVATE KEY-----\n{secret}\n-----END PRIVATE KEY-----\n"
    assert redacted(f"a {key} b") == "a [redacted]\n b"
    assert secret not in redacted(key[:-30])
    assert redacted("spiffe://example.org/ns/shop/svc/orders at 127.0.0.1") == (
        "spiffe://example.org/ns/shop/svc/orders at 127.0.0.1"
    )


def test_a_line_of_json_is_one_object(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        audit = logging.getLogger("mesh.audit")
        event(audit, logging.INFO, "accepted", revision=7, time="mine", peer='a\n"b"', left=None)
    (record,) = caplog.records
    line = JsonFormatter().format(record)
    assert "\n" not in line
    said = json.loads(line)
    assert (said["message"], said["level"], said["logger"]) == ("accepted", "info", "mesh.audit")
    assert (said["revision"], said["peer"], said["time_"]) == (7, 'a\n"b"', "mine")
    assert said["time"].endswith("+00:00")
    assert "left" not in said
