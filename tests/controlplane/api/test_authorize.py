from __future__ import annotations

import datetime

import pytest

from controlplane.api.authorize import (
    ALLOWED,
    Role,
    authorize,
    authorize_namespaces,
    authorize_whole_mesh,
    role_of,
)
from controlplane.api.caller import Caller, CallerKind, Listener, caller_of
from schemas.api import mesh_pb2
from schemas.errors import PermissionDenied, Unauthenticated
from schemas.names import SYSTEM_NAMESPACE, ServiceRef, SpiffeId
from schemas.records import Operator
from tests.support.pki import Authority, pem

TRUST_DOMAIN = "shop.example"
CA = Authority.create()

READ = {
    "Revocations/List", "Revocations/EtcdList", "Config/Get", "Config/List", "Config/Watch", "Sidecars/List",
    "Sidecars/Wait", "Tokens/List", "Attestors/List", "Attestors/Where", "Authority/Status", "Authority/Follow",
    "Federation/Status", "Federation/Bundle", "KeySets/Status", "Questions/Ask",
}  # fmt: skip
WRITE = {
    "KeySets/Fetch",
    "Sidecars/SetLogLevel",
    "Revocations/Revoke",
    "Revocations/Restore",
    "Config/Apply",
    "Tokens/Create",
    "Tokens/Revoke",
}
ADMINISTER = {
    "Operators/List", "Operators/Grant", "Operators/Revoke", "Attestors/Put", "Attestors/Delete", "Authority/Rotate",
    "Authority/StopRotation", "Authority/Prepare", "Authority/Activate", "Authority/Retire", "Authority/Remove",
    "Authority/Request", "Authority/Install", "Authority/Reseal", "Federation/Fetch",
}  # fmt: skip

# Written a second time, by role: the table must not change unnoticed.
MAY_CALL: dict[Role, set[str]] = {
    Role.ROOT_LOCAL: READ | WRITE | ADMINISTER,
    Role.ADMIN: READ | WRITE | ADMINISTER | {"Identity/RenewLogin"},
    Role.EDITOR: READ | WRITE | {"Identity/RenewLogin"},
    Role.VIEWER: READ | {"Identity/RenewLogin"},
    Role.NONE: set(),
    Role.SIDECAR: {
        "Identity/Renew", "Identity/RenewBatch", "Identity/IssueX509", "Identity/IssueJwt", "Sidecars/Register",
        "Sidecars/Deregister", "Sidecars/Report", "Questions/Answer",
    },
    Role.CONTROL_PLANE: set(),
    Role.ANONYMOUS: {"Identity/Challenge", "Identity/Join", "Identity/Login"},
}  # fmt: skip


def caller_with(role: Role) -> Caller:
    """As dispatch makes it: an operator's role is what its record says."""
    match role:
        case Role.ADMIN | Role.EDITOR | Role.VIEWER:
            namespaces = ("shop",) if role is Role.EDITOR else ()
            record = Operator(name="anna", role=role.value, namespaces=namespaces, since=0, granted_by="root-local")
            return Caller(CallerKind.OPERATOR, "somewhere", SpiffeId(TRUST_DOMAIN, "/operator/anna"), operator=record)
        case Role.NONE:
            return Caller(CallerKind.OPERATOR, "somewhere", SpiffeId(TRUST_DOMAIN, "/operator/anna"))
    return Caller(CallerKind(role.value), "somewhere")


RPCS = [
    f"{service.name}/{method.name}"
    for service in mesh_pb2.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]


def test_the_table_names_every_rpc_and_no_other() -> None:
    assert {f"/mesh.v1.{rpc}" for rpc in RPCS} == ALLOWED.keys()


def test_every_kind_of_caller_has_a_role() -> None:
    assert {role_of(caller_with(role)) for role in Role} == set(Role)
    assert {caller_with(role).kind for role in Role} == set(CallerKind)


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("rpc", [*RPCS, "Config/Destroy", "Nothing"])
def test_every_caller_and_every_rpc(role: Role, rpc: str) -> None:
    caller = caller_with(role)
    if rpc in MAY_CALL[role]:
        authorize(f"/mesh.v1.{rpc}", caller)
    else:
        with pytest.raises(PermissionDenied, match=role.value):
            authorize(f"/mesh.v1.{rpc}", caller)


def test_an_editor_writes_in_its_own_namespaces() -> None:
    editor = caller_with(Role.EDITOR)
    authorize_namespaces(editor, (), "objects")
    authorize_namespaces(editor, ("shop", "shop"), "objects")
    for namespaces in (("stock",), ("shop", "stock"), (SYSTEM_NAMESPACE,), ("shop2",), ("",)):
        with pytest.raises(PermissionDenied, match="anna is editor of shop"):
            authorize_namespaces(editor, namespaces, "objects")
    with pytest.raises(PermissionDenied, match="for admins"):
        authorize_whole_mesh(editor, "a login token")


def test_a_viewer_writes_nowhere_and_an_admin_everywhere() -> None:
    with pytest.raises(PermissionDenied, match="viewer of no namespace"):
        authorize_namespaces(caller_with(Role.VIEWER), ("shop",), "objects")
    for role in (Role.ADMIN, Role.ROOT_LOCAL):
        authorize_namespaces(caller_with(role), ("stock", SYSTEM_NAMESPACE), "objects")
        authorize_whole_mesh(caller_with(role), "a login token")


def now() -> float:
    """When it is asked, not when the tests were collected: certificates are made for the time of a test."""
    return datetime.datetime.now(datetime.UTC).timestamp()


def certificate(uri: str | list[str], **options: object) -> bytes:
    return pem(CA.issue(uri=uri, **options).certificate)  # type: ignore[arg-type]  # options of pki.issue


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/ns/shop/svc/orders", CallerKind.SIDECAR),
        ("/control-plane", CallerKind.CONTROL_PLANE),
        ("/operator/anna", CallerKind.OPERATOR),
    ],
)
def test_the_identity_makes_the_kind(path: str, kind: CallerKind) -> None:
    caller = caller_of(
        Listener.API, "ipv4:10.0.0.1:4000", certificate(f"spiffe://{TRUST_DOMAIN}{path}"), TRUST_DOMAIN, now()
    )
    identity = SpiffeId(TRUST_DOMAIN, path)
    assert caller == Caller(kind, "ipv4:10.0.0.1:4000", identity, issued=caller.issued)
    assert abs(caller.issued - now()) < 3600  # the authority of these tests dates its certificates back by more or less


def test_a_sidecar_is_of_its_service() -> None:
    caller = Caller(CallerKind.SIDECAR, "", SpiffeId.parse("spiffe://a/ns/shop/svc/orders"))
    assert caller.service == ServiceRef("shop", "orders")
    with pytest.raises(Unauthenticated):
        _ = Caller(CallerKind.ROOT_LOCAL, "").service


@pytest.mark.parametrize(
    "uri",
    [
        "spiffe://other.example/ns/shop/svc/orders",
        f"spiffe://{TRUST_DOMAIN}/somebody",
        f"spiffe://{TRUST_DOMAIN}/ns/shop/svc/orders/more",
        f"spiffe://{TRUST_DOMAIN}/operator",
        f"spiffe://{TRUST_DOMAIN}/operator/a/b",
        f"spiffe://{TRUST_DOMAIN}/control-plane/x",
        f"https://{TRUST_DOMAIN}/operator/anna",
        [f"spiffe://{TRUST_DOMAIN}/operator/anna", f"spiffe://{TRUST_DOMAIN}/operator/bert"],
        [],
    ],
)
def test_other_identities_are_nobody(uri: str | list[str]) -> None:
    with pytest.raises(Unauthenticated):
        caller_of(Listener.API, "", certificate(uri), TRUST_DOMAIN, now())


def test_a_certificate_that_expired_on_an_open_connection() -> None:
    shown = certificate(f"spiffe://{TRUST_DOMAIN}/operator/anna", lifetime=datetime.timedelta(minutes=1))
    assert caller_of(Listener.API, "", shown, TRUST_DOMAIN, now())
    with pytest.raises(Unauthenticated, match="renew it"):
        caller_of(Listener.API, "", shown, TRUST_DOMAIN, now() + 3600)


def test_without_or_with_a_broken_certificate() -> None:
    for shown in (None, b"not PEM"):
        with pytest.raises(Unauthenticated):
            caller_of(Listener.API, "", shown, TRUST_DOMAIN, now())


def test_the_join_door_trusts_no_certificate() -> None:
    shown = certificate(f"spiffe://{TRUST_DOMAIN}/operator/anna")
    assert caller_of(Listener.JOIN, "ipv4:1.2.3.4:5", shown, TRUST_DOMAIN, now()).kind is CallerKind.ANONYMOUS


def test_the_socket_is_root() -> None:
    assert caller_of(Listener.SOCKET, "unix:", None, TRUST_DOMAIN, now()).kind is CallerKind.ROOT_LOCAL
