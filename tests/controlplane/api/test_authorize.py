from __future__ import annotations

import datetime

import pytest

from controlplane.api.authorize import ALLOWED, authorize
from controlplane.api.caller import Caller, CallerKind, Listener, caller_of
from schemas.api import mesh_pb2
from schemas.errors import PermissionDenied, Unauthenticated
from schemas.names import ServiceRef, SpiffeId
from tests.support.pki import Authority, pem

TRUST_DOMAIN = "shop.example"
NOW = datetime.datetime.now(datetime.UTC).timestamp()
CA = Authority.create()

# Written a second time, by kind of caller: the table must not change unnoticed.
MAY_CALL = {
    CallerKind.ROOT_LOCAL: {
        "Config/Apply", "Config/Get", "Config/List", "Config/Watch", "Tokens/Create", "Sidecars/List", "Sidecars/Wait",
    },
    CallerKind.OPERATOR: {
        "Config/Apply", "Config/Get", "Config/List", "Config/Watch", "Tokens/Create", "Sidecars/List", "Sidecars/Wait",
    },
    CallerKind.SIDECAR: {"Identity/Renew", "Sidecars/Register", "Sidecars/Deregister", "Sidecars/Report"},
    CallerKind.CONTROL_PLANE: set(),
    CallerKind.ANONYMOUS: {"Identity/Join"},
}  # fmt: skip

RPCS = [
    f"{service.name}/{method.name}"
    for service in mesh_pb2.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]


def test_the_table_names_every_rpc_and_no_other() -> None:
    assert {f"/mesh.v1.{rpc}" for rpc in RPCS} == ALLOWED.keys()


@pytest.mark.parametrize("kind", CallerKind)
@pytest.mark.parametrize("rpc", [*RPCS, "Config/Destroy", "Nothing"])
def test_every_caller_and_every_rpc(kind: CallerKind, rpc: str) -> None:
    caller = Caller(kind, "somewhere")
    if rpc in MAY_CALL[kind]:
        authorize(f"/mesh.v1.{rpc}", caller)
    else:
        with pytest.raises(PermissionDenied, match=kind.value):
            authorize(f"/mesh.v1.{rpc}", caller)


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
        Listener.API, "ipv4:10.0.0.1:4000", certificate(f"spiffe://{TRUST_DOMAIN}{path}"), TRUST_DOMAIN, NOW
    )
    assert caller == Caller(kind, "ipv4:10.0.0.1:4000", SpiffeId(TRUST_DOMAIN, path))


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
        caller_of(Listener.API, "", certificate(uri), TRUST_DOMAIN, NOW)


def test_a_certificate_that_expired_on_an_open_connection() -> None:
    shown = certificate(f"spiffe://{TRUST_DOMAIN}/operator/anna", lifetime=datetime.timedelta(minutes=1))
    assert caller_of(Listener.API, "", shown, TRUST_DOMAIN, NOW)
    with pytest.raises(Unauthenticated, match="renew it"):
        caller_of(Listener.API, "", shown, TRUST_DOMAIN, NOW + 3600)


def test_without_or_with_a_broken_certificate() -> None:
    for shown in (None, b"not PEM"):
        with pytest.raises(Unauthenticated):
            caller_of(Listener.API, "", shown, TRUST_DOMAIN, NOW)


def test_the_join_door_trusts_no_certificate() -> None:
    shown = certificate(f"spiffe://{TRUST_DOMAIN}/operator/anna")
    assert caller_of(Listener.JOIN, "ipv4:1.2.3.4:5", shown, TRUST_DOMAIN, NOW).kind is CallerKind.ANONYMOUS


def test_the_socket_is_root() -> None:
    assert caller_of(Listener.SOCKET, "unix:", None, TRUST_DOMAIN, NOW).kind is CallerKind.ROOT_LOCAL
