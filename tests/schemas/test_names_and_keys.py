"""Names, SPIFFE IDs and etcd keys: what is parsed comes back, and nothing else is let in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import InvalidInput
from schemas.keys import EndpointRef, EpochRef, KeySetRef, Keyspace, LogLevelRef, StatusRef, TrustRef
from schemas.names import MAX_SPIFFE_ID_BYTES, ObjectRef, ServiceRef, SpiffeId, check_name, check_trust_domain
from tests.schemas.values import names, object_refs, service_refs, spiffe_ids, trust_domains

KEYS = Keyspace("/mesh/v1")


@given(spiffe_ids)
def test_spiffe_id_round_trip(id_: SpiffeId) -> None:
    assert SpiffeId.parse(str(id_)) == id_


@given(st.text() | st.text(alphabet="spife:/.a-Z0%?#@ \u212a").map("spiffe://".__add__))
def test_spiffe_id_of_any_text_is_refused_or_comes_back(text: str) -> None:
    try:
        id_ = SpiffeId.parse(text)
    except InvalidInput:
        return
    assert SpiffeId.parse(str(id_)) == id_
    assert str(id_) == "spiffe://" + text[9:].partition("/")[0].lower() + id_.path


@pytest.mark.parametrize(
    "text",
    [
        "",
        "spiffe://",
        "spiffe:///a",
        "https://td/a",
        "spiffe://td/",
        "spiffe://td//a",
        "spiffe://td/a/",
        "spiffe://td/./a",
        "spiffe://td/a/..",
        "spiffe://td:8443/a",
        "spiffe://user@td/a",
        "spiffe://td/a?q",
        "spiffe://td/a#f",
        "spiffe://td/%41",
        "spiffe://td/a\n",
        "spiffe://\u212aelvin/a",
        "spiffe://td/\ud800",
        "spiffe://td/" + "a" * MAX_SPIFFE_ID_BYTES,
    ],
)
def test_spiffe_id_outside_the_grammar(text: str) -> None:
    with pytest.raises(InvalidInput, match="SPIFFE ID"):
        SpiffeId.parse(text)


def test_scheme_and_trust_domain_know_no_case_and_the_path_does() -> None:
    assert SpiffeId.parse("SPIFFE://TD.Example/ns/A") == SpiffeId("td.example", "/ns/A")


@given(trust_domains, service_refs)
def test_spiffe_id_of_a_service(domain: str, service: ServiceRef) -> None:
    id_ = SpiffeId.of_service(domain, service)
    assert SpiffeId.parse(str(id_)).service == service
    assert SpiffeId.of_control_plane(domain).service is None
    assert SpiffeId.of_operator(domain, service.name).service is None


@pytest.mark.parametrize("path", ["/ns/a/svc", "/ns/a/svc/b/c", "/ns/A/svc/b", "/ns/a/svc/b_", "/NS/a/svc/b", ""])
def test_foreign_path_is_no_service(path: str) -> None:
    assert SpiffeId("td", path).service is None


@given(service_refs)
def test_service_ref_round_trip(ref: ServiceRef) -> None:
    assert ServiceRef.parse(str(ref)) == ref
    assert ServiceRef.parse(ref.name, ref.namespace) == ref


@pytest.mark.parametrize("text", ["", "orders", ".shop", "orders.", "a.b.c", "Orders.shop", "orders.shop\n", "-a.b"])
def test_service_ref_outside_the_grammar(text: str) -> None:
    with pytest.raises(InvalidInput):
        ServiceRef.parse(text)


@given(st.text())
def test_check_name_lets_only_labels_pass(text: str) -> None:
    try:
        assert check_name(text, "name") == text
    except InvalidInput:
        return
    assert text.isascii()
    assert 0 < len(text) < 64


def test_check_trust_domain() -> None:
    assert check_trust_domain("example.org") == "example.org"
    for bad in ("", "Example.org", "a" * 256, "a/b", "a\n"):
        with pytest.raises(InvalidInput):
            check_trust_domain(bad)


@given(object_refs, service_refs, names, trust_domains)
def test_keys_round_trip(ref: ObjectRef, service: ServiceRef, name: str, domain: str) -> None:
    endpoint = EndpointRef(service, name)
    status = StatusRef(service.namespace, name)
    assert KEYS.parse(KEYS.object(ref)) == ref
    assert KEYS.parse(KEYS.endpoint(endpoint)) == endpoint
    assert KEYS.parse(KEYS.trust_bundle(domain)) == TrustRef(domain)
    assert KEYS.parse(KEYS.status(status)) == status
    assert KEYS.parse(KEYS.log_level(LogLevelRef(service, name))) == LogLevelRef(service, name)
    assert KEYS.parse(KEYS.key_set(KeySetRef(name))) == KeySetRef(name)
    assert KEYS.parse(KEYS.epoch()) == EpochRef()


@given(object_refs, service_refs, names)
def test_each_key_lies_under_its_prefixes(ref: ObjectRef, service: ServiceRef, name: str) -> None:
    key = KEYS.object(ref)
    prefixes = (
        KEYS.data(),
        KEYS.config(),
        KEYS.config_of_kind(ref.kind),
        KEYS.config_of_kind(ref.kind, ref.namespace),
    )
    for prefix in prefixes:
        assert key.startswith(prefix)
        assert prefix.endswith(b"/")
    assert KEYS.endpoint(EndpointRef(service, name)).startswith(KEYS.endpoints_of(service))
    assert KEYS.status(StatusRef(ref.namespace, name)).startswith(KEYS.statuses())
    assert KEYS.log_level(LogLevelRef(service, name)).startswith(KEYS.log_levels_of(service))
    assert KEYS.log_levels_of(service).startswith(KEYS.data())


def test_what_sidecars_may_read_sorts_after_what_they_may_not() -> None:
    assert max(KEYS.ca(), KEYS.tokens(), KEYS.statuses(), KEYS.request("zzz")) < KEYS.data()
    assert not KEYS.ca_key("x").startswith(KEYS.data())


@given(st.binary(max_size=64) | st.text(alphabet="/ab", max_size=40).map(lambda text: f"/mesh/v1/data/{text}".encode()))
def test_a_foreign_key_is_none_or_what_it_says(key: bytes) -> None:
    ref = KEYS.parse(key)
    if isinstance(ref, ObjectRef):
        assert KEYS.object(ref) == key
    elif isinstance(ref, EndpointRef):
        assert KEYS.endpoint(ref) == key
    elif isinstance(ref, TrustRef):
        assert KEYS.trust_bundle(ref.trust_domain) == key
    elif isinstance(ref, LogLevelRef):
        assert KEYS.log_level(ref) == key
    elif isinstance(ref, KeySetRef):
        assert KEYS.key_set(ref) == key


@pytest.mark.parametrize(
    "key",
    [
        b"/mesh/v1/control/ca/k1",
        b"/mesh/v1/control/tokens/t",
        b"/mesh/v10/data/epoch",
        b"/mesh/v1/data/epoch/",
        b"/mesh/v1/data/config/Service/shop",
        b"/mesh/v1/data/config/Service//orders",
        b"/mesh/v1/data/config/Service/shop/orders/x",
        b"/mesh/v1/data/trust/",
        b"/mesh/v1/data/config/Service/shop/\xff",
    ],
)
def test_not_a_key_of_ours(key: bytes) -> None:
    assert KEYS.parse(key) is None
