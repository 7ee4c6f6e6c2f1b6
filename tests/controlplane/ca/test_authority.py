"""What the CA issues: by our own validator, by OpenSSL, and field by field."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from controlplane.ca import template as templates
from controlplane.ca.authority import Authority, expires
from controlplane.ca.errors import AuthorityExpired, NoAuthority
from controlplane.ca.sign import serial_number
from schemas.errors import InvalidInput, Unavailable
from schemas.names import CONTROL_PLANE_SERVER_NAME, ServiceRef, SpiffeId
from spiffe.x509 import parse_chain, verify_chain
from tests.controlplane.ca import openssl
from tests.controlplane.ca.conftest import TRUST_DOMAIN
from tests.spiffe.certificates import HOUR, NOW, new_key

ORDERS = ServiceRef("shop", "orders")
Issue = Callable[[Authority, ec.EllipticCurvePublicKey], tuple[bytes, ...]]

SVIDS = [
    pytest.param(
        lambda ca, key: ca.issue_workload(ORDERS, key, NOW, HOUR, 7),
        f"spiffe://{TRUST_DOMAIN}/ns/shop/svc/orders",
        (),
        id="workload",
    ),
    pytest.param(
        lambda ca, key: ca.issue_control_plane(key, NOW, HOUR, 7),
        f"spiffe://{TRUST_DOMAIN}/control-plane",
        (CONTROL_PLANE_SERVER_NAME,),
        id="replica",
    ),
    pytest.param(
        lambda ca, key: ca.issue_operator("ada", key, NOW, HOUR, 7),
        f"spiffe://{TRUST_DOMAIN}/operator/ada",
        (),
        id="operator",
    ),
]


@pytest.mark.parametrize(("issue", "identity", "dns_names"), SVIDS)
@pytest.mark.spiffe(5)
@pytest.mark.spiffe(6)
@pytest.mark.spiffe(8)
def test_an_svid_proves_its_identity_and_says_nothing_more(
    authority: Authority, issue: Issue, identity: str, dns_names: tuple[str, ...]
) -> None:
    key = new_key().public_key()
    chain = parse_chain(issue(authority, key))
    assert verify_chain(chain, {TRUST_DOMAIN: authority.roots}, NOW) == SpiffeId.parse(identity)
    leaf, *above = chain
    assert above == [authority.issuing.certificate]  # and not the root
    assert leaf.public_key() == key
    assert leaf.subject == x509.Name([])
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert names.critical
    assert [name.value for name in names.value] == [identity, *dns_names]
    usage = leaf.extensions.get_extension_for_class(x509.KeyUsage)
    assert (usage.critical, usage.value.digital_signature) == (True, True)
    assert not usage.value.key_cert_sign
    assert not usage.value.crl_sign
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert set(leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == {
        ExtendedKeyUsageOID.SERVER_AUTH,
        ExtendedKeyUsageOID.CLIENT_AUTH,
    }


@openssl.available
@pytest.mark.parametrize(("issue", "identity", "dns_names"), SVIDS)
@pytest.mark.spiffe(8)
def test_openssl_takes_an_svid_for_both_ends(
    tmp_path: Path, authority: Authority, issue: Issue, identity: str, dns_names: tuple[str, ...]
) -> None:
    chain = issue(authority, new_key().public_key())
    for purpose in ("sslserver", "sslclient"):
        assert openssl.verify(tmp_path, chain, authority.roots, purpose, NOW) == "leaf.pem: OK"
    assert "certificate has expired" in openssl.verify(tmp_path, chain, authority.roots, "sslclient", NOW + 2 * HOUR)
    for name in dns_names:
        assert openssl.verify(tmp_path, chain, authority.roots, "sslserver", NOW, "-verify_hostname", name).endswith(
            ": OK"
        )


@pytest.mark.spiffe(7)
def test_authorities_name_the_trust_domain_and_can_only_sign(authority: Authority) -> None:
    for certificate, path_length in ((authority.root, 1), (authority.issuing.certificate, 0)):
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
        assert (constraints.critical, constraints.value) == (True, x509.BasicConstraints(True, path_length))
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
        assert usage.critical
        assert usage.value.key_cert_sign
        assert not usage.value.digital_signature
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert [name.value for name in names] == [f"spiffe://{TRUST_DOMAIN}"]


@openssl.available
def test_an_etcd_client_is_a_user_and_nothing_else(tmp_path: Path, authority: Authority) -> None:
    chain = authority.issue_etcd_client("mesh-sidecar", new_key().public_key(), NOW, HOUR, 7)
    (leaf,) = parse_chain(chain)
    assert [(one.oid, one.value) for one in leaf.subject] == [(NameOID.COMMON_NAME, "mesh-sidecar")]
    with pytest.raises(x509.ExtensionNotFound):
        leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    etcd_ca = x509.load_pem_x509_certificate(authority.etcd_ca_pem)
    assert openssl.verify(tmp_path, chain, [etcd_ca], "sslclient", NOW) == "leaf.pem: OK"
    assert "unsuitable certificate purpose" in openssl.verify(tmp_path, chain, [etcd_ca], "sslserver", NOW)
    assert not openssl.verify(tmp_path, chain, authority.roots, "sslclient", NOW).endswith("OK")


def test_not_before_leaves_room_for_a_clock_that_is_behind(authority: Authority) -> None:
    (leaf, _) = parse_chain(authority.issue_workload(ORDERS, new_key().public_key(), NOW + 0.9, HOUR, 7))
    assert leaf.not_valid_before_utc.timestamp() == NOW - templates.BACKDATE_SECONDS
    assert leaf.not_valid_after_utc.timestamp() == NOW + HOUR


@pytest.mark.fault(13)
def test_no_leaf_outlives_its_issuer(authority: Authority) -> None:
    end = int(authority.issuing.certificate.not_valid_after_utc.timestamp())
    assert authority.issues_until == end
    key = new_key().public_key()
    assert expires(authority.issue_workload(ORDERS, key, end - HOUR, 7 * 24 * HOUR, 7)) == end
    assert expires(authority.issue_workload(ORDERS, key, end - 2 * HOUR, HOUR, 7)) == end - HOUR


@pytest.mark.fault(13)
def test_an_expired_issuing_key_signs_nothing(authority: Authority) -> None:
    end = int(authority.issuing.certificate.not_valid_after_utc.timestamp())
    key = new_key().public_key()
    issues: list[Callable[[int], tuple[bytes, ...]]] = [
        lambda now: authority.issue_workload(ORDERS, key, now, HOUR, 7),
        lambda now: authority.issue_control_plane(key, now, HOUR, 7),
        lambda now: authority.issue_operator("ada", key, now, HOUR, 7),
    ]
    for now in (end - 1, end, end + 1, end + 365 * 24 * HOUR):
        for issue in issues:
            with pytest.raises(AuthorityExpired, match="signs no more") as caught:
                issue(now)
            assert isinstance(caught.value, Unavailable)
    etcd_end = int(authority.etcd.certificate.not_valid_after_utc.timestamp())
    with pytest.raises(AuthorityExpired):
        authority.issue_etcd_client("mesh-sidecar", key, etcd_end, HOUR, 7)


@pytest.mark.fault(12)
def test_a_clock_far_behind_is_noticed(authority: Authority) -> None:
    with pytest.raises(NoAuthority, match="clock"):
        authority.issue_workload(ORDERS, new_key().public_key(), NOW - HOUR, HOUR, 7)


@pytest.mark.parametrize("name", ["", "Ada", "a/b", "a.b", "../control-plane", "a" * 64, "ada\n"])
def test_an_operator_s_name_can_not_leave_its_path(authority: Authority, name: str) -> None:
    with pytest.raises(InvalidInput):
        authority.issue_operator(name, new_key().public_key(), NOW, HOUR, 7)


@pytest.mark.parametrize("user", ["", "mesh-sidecar\0root", "CN=root", "root,OU=x", "Root"])
def test_an_etcd_user_is_a_plain_name(authority: Authority, user: str) -> None:
    with pytest.raises(InvalidInput):
        authority.issue_etcd_client(user, new_key().public_key(), NOW, HOUR, 7)


def test_serial_numbers_are_positive_and_of_20_octets_at_most() -> None:
    for random in (bytes(20), b"\xff" * 20, bytes(range(20))):
        assert 0 < serial_number(random) < 1 << 159
    with pytest.raises(ValueError, match="20"):
        serial_number(bytes(8))


def test_keys_never_show(authority: Authority) -> None:
    shown = repr(authority)
    assert "PrivateKey" not in shown
    assert "issuing" not in shown
