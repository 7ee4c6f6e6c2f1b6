"""Templates, and the check that what was signed is what its template says."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from controlplane.ca import template as templates
from controlplane.ca.check import checked
from controlplane.ca.errors import Miscreated
from controlplane.ca.sign import Issuer, self_signed, signed
from controlplane.ca.template import Purpose, Template, Validity
from schemas.errors import InvalidInput
from schemas.names import ServiceRef
from tests.spiffe.certificates import HOUR, NOW, new_key

VALIDITY = Validity.starting(NOW, HOUR)
SVID = templates.workload_svid("td", ServiceRef("shop", "orders"), VALIDITY)
KEY = new_key()


@pytest.fixture(scope="module")
def issuer() -> Issuer:
    key = new_key()
    template = templates.mesh_root("td", "1", Validity.starting(NOW, templates.ROOT_SECONDS))
    return Issuer(checked(self_signed(template, key, 1), template, key.public_key(), None), key)


WIDER = [
    pytest.param(replace(SVID, uris=("spiffe://td/control-plane",)), id="another identity"),
    pytest.param(replace(SVID, uris=(*SVID.uris, "spiffe://td/control-plane")), id="two identities"),
    pytest.param(replace(SVID, dns_names=("control-plane.mesh.internal",)), id="a DNS name more"),
    pytest.param(replace(SVID, addresses=("10.0.0.1",)), id="an address more"),
    pytest.param(replace(SVID, common_name="root"), id="a common name"),
    pytest.param(replace(SVID, path_length=0), id="CA"),
    pytest.param(replace(SVID, purposes=frozenset({Purpose.CLIENT})), id="other purposes"),
    pytest.param(replace(SVID, validity=replace(VALIDITY, not_after=NOW + 2 * HOUR)), id="a longer life"),
    pytest.param(replace(SVID, validity=replace(VALIDITY, not_before=NOW - HOUR)), id="an earlier start"),
]


@pytest.mark.parametrize("other", WIDER)
@pytest.mark.fault(16)
def test_a_certificate_that_is_not_what_its_template_says_never_leaves(issuer: Issuer, other: Template) -> None:
    made = signed(other, KEY.public_key(), issuer, 1)
    with pytest.raises(Miscreated):
        checked(made, SVID, KEY.public_key(), issuer.certificate)
    right = signed(SVID, KEY.public_key(), issuer, 1)
    assert checked(right, SVID, KEY.public_key(), issuer.certificate) == right


@pytest.mark.fault(16)
def test_another_key_another_issuer_and_one_more_extension_are_noticed(issuer: Issuer) -> None:
    made = signed(SVID, KEY.public_key(), issuer, 1)
    with pytest.raises(Miscreated, match="public key"):
        checked(made, SVID, new_key().public_key(), issuer.certificate)
    stranger = Issuer(issuer.certificate, new_key())
    with pytest.raises(Miscreated, match="not signed by its issuer"):
        checked(signed(SVID, KEY.public_key(), stranger, 1), SVID, KEY.public_key(), issuer.certificate)
    builder = x509.CertificateBuilder(
        made.issuer,
        made.subject,
        KEY.public_key(),
        1,
        made.not_valid_before_utc.replace(tzinfo=None),
        made.not_valid_after_utc.replace(tzinfo=None),
        [*made.extensions, x509.Extension(x509.OCSPNoCheck.oid, False, x509.OCSPNoCheck())],
    )
    with pytest.raises(Miscreated, match="extensions"):
        checked(builder.sign(issuer.key, hashes.SHA256()), SVID, KEY.public_key(), issuer.certificate)


def test_a_certificate_that_would_outlive_its_issuer_never_leaves(issuer: Issuer) -> None:
    end = int(issuer.certificate.not_valid_after_utc.timestamp())
    template = replace(SVID, validity=Validity(NOW, end + 1))
    with pytest.raises(Miscreated, match="outlive"):
        checked(signed(template, KEY.public_key(), issuer, 1), template, KEY.public_key(), issuer.certificate)


@pytest.mark.spiffe(7)
def test_a_ca_certificate_never_names_a_workload(issuer: Issuer) -> None:
    template = replace(templates.mesh_issuing("td", "1", VALIDITY), uris=("spiffe://td/ns/shop/svc/orders",))
    with pytest.raises(Miscreated, match="trust domain only"):
        checked(signed(template, KEY.public_key(), issuer, 1), template, KEY.public_key(), issuer.certificate)


def test_an_etcd_server_is_nobody_s_user() -> None:
    template = templates.etcd_server(["etcd-1.example", "10.0.0.1", "::1", "10.0.0.1"], VALIDITY)
    assert template.common_name == ""
    assert (template.dns_names, template.addresses) == (("etcd-1.example",), ("10.0.0.1", "::1"))


@pytest.mark.parametrize("host", ["", "-a", "a b", "a..b", "*.example", "10.0.0.256", "a" * 254, "http://a", "a:1"])
def test_what_is_no_host_is_refused(host: str) -> None:
    with pytest.raises(InvalidInput, match="neither"):
        templates.etcd_server([host], VALIDITY)


def test_a_server_certificate_without_a_host_is_refused() -> None:
    with pytest.raises(InvalidInput, match="--etcd-host"):
        templates.etcd_server([], VALIDITY)


@pytest.mark.parametrize("seconds", [30, 60, 61, 69, 70, 599, 600, 601, 3600, 7 * 24 * 3600])
def test_a_certificate_tells_when_it_was_made(seconds: int) -> None:
    validity = Validity.starting(NOW, seconds)
    assert templates.issued_at(validity.not_before, validity.not_after) == NOW
    assert validity.not_before + (validity.not_after - validity.not_before) / 2 > NOW + seconds / 4
    assert templates.issued_at(validity.not_before, validity.not_after - 5) <= NOW
