"""Whatever a stranger sends: the identity that comes back is one that an attestor vouched for, or there is none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.api.attestors.interface import Attestation
from controlplane.api.attestors.join_token import JoinTokenAttestor
from controlplane.api.attestors.x509_possession import X509Possession
from controlplane.api.call import Call
from controlplane.api.caller import Caller, CallerKind
from controlplane.api.identity_service import IdentityService
from controlplane.api.issuing import Issuing
from controlplane.ca import tokens
from controlplane.ca.tokens import Terms
from controlplane.store.etcd import Store
from controlplane.store.ops import Guard, Op, Put
from schemas import codec
from schemas.api import mesh_pb2 as pb
from schemas.errors import MeshError, Unauthenticated
from schemas.keys import Keyspace
from schemas.names import ServiceRef, SpiffeId
from schemas.records import Epoch, HostAuthority, HostRule, JoinToken, TokenUse
from schemas.selectors import ServiceSelector
from spiffe import possession
from spiffe.x509 import leaf_identity
from tests.controlplane.api.test_lost_answers import issuing
from tests.spiffe.certificates import NOW
from tests.support.pki import Authority
from trio_etcd import KeyValue, Listing

TRUST_DOMAIN = "mesh.example"  # of `issuing`
ANYBODY = Call(Caller(CallerKind.ANONYMOUS, "ipv4:10.0.0.1:5"), seconds=5)
CORP = Authority.create("corp hosts")


class MemoryStore(Store):
    """A store in memory, of as much as joining needs. Guards hold always: there is nobody else."""

    def __init__(self) -> None:
        self.keyspace = Keyspace()
        self.values: dict[bytes, bytes] = {}

    async def get_many(self, keys: Iterable[bytes]) -> dict[bytes, KeyValue]:
        return {key: self._kv(key) for key in keys if key in self.values}

    async def list(self, prefix: bytes) -> Listing:
        return Listing(9, tuple(self._kv(key) for key in sorted(self.values) if key.startswith(prefix)))

    async def transact(self, guards: Sequence[Guard], ops: Sequence[Op], *, seconds: float = 1) -> int | None:
        for op in ops:
            assert isinstance(op, Put)
            self.values[op.key] = op.value
        return 9

    def _kv(self, key: bytes) -> KeyValue:
        return KeyValue(key, self.values[key], 9)


@cache
def authority() -> Issuing:
    return trio.run(issuing)


class Says:
    """An attestor that vouches for `selectors`, whatever it is shown."""

    def __init__(self, *selectors: ServiceSelector) -> None:
        self._selectors = selectors
        self.used: list[str] = []

    async def attest(self, message: pb.JoinRequest, call: Call) -> Attestation:
        async def use(identity: str, seconds: float) -> None:
            self.used.append(identity)

        return Attestation(self._selectors, "the test", use)


def service(attestor: Any, store: Store) -> IdentityService:
    ca = authority()
    x509_attestor = X509Possession(store, lambda: TRUST_DOMAIN, ca.now, ca.random)
    return IdentityService(ca, {"token": attestor}, x509_attestor)


def outcome(join: Callable[[], Any]) -> pb.IdentityReply | None:
    """The answer; None where it was refused, as it must be, with one of our errors."""
    try:
        reply: pb.IdentityReply = trio.run(join)
    except MeshError:
        return None
    return reply


# -- signing requests


def _names(draw: Any) -> list[x509.GeneralName]:
    uri = st.sampled_from(
        [
            f"spiffe://{TRUST_DOMAIN}/operator/anna",
            f"spiffe://{TRUST_DOMAIN}/control-plane",
            f"spiffe://{TRUST_DOMAIN}/ns/shop/svc/payments",
            f"spiffe://{TRUST_DOMAIN}",
            "spiffe://other.example/ns/shop/svc/orders",
            "https://example.org",
        ]
    )
    one = st.one_of(
        uri.map(x509.UniformResourceIdentifier),
        st.sampled_from(["control-plane.mesh.internal", "*", "a.example.org"]).map(x509.DNSName),
        st.just("root@example.org").map(x509.RFC822Name),
    )
    return draw(st.lists(one, max_size=4))  # type: ignore[no-any-return]  # draw is untyped


@st.composite
def requests(draw: Any) -> bytes:
    """PKCS#10 that asks for what it likes, or bytes that are nearly one."""
    curve = draw(st.sampled_from([ec.SECP256R1(), ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1(), None]))
    key: Any = ec.generate_private_key(curve) if curve else _weak_key()
    attributes = [
        x509.NameAttribute(oid, draw(st.sampled_from(["root", "mesh-replica", "mesh-tooling", "x"])))
        for oid in draw(st.lists(st.sampled_from([NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME]), max_size=3))
    ]
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(attributes))
    if names := _names(draw):
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=draw(st.booleans()))
    if draw(st.booleans()):
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    if draw(st.booleans()):
        usages = [ExtendedKeyUsageOID.CODE_SIGNING, ExtendedKeyUsageOID.OCSP_SIGNING]
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    der = builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
    return _spoiled(draw, der) if draw(st.integers(0, 4)) == 0 else der


def _spoiled(draw: Any, data: bytes) -> bytes:
    # By a fraction: the length differs from run to run, as signatures do.
    place = draw(st.integers(0, 9999)) * len(data) // 10_000
    kind, byte, more = draw(st.tuples(st.integers(0, 2), st.integers(0, 255), st.binary(max_size=8)))
    changed: bytes = (data[:place], data + more, data[:place] + bytes([byte]) + data[place + 1 :])[kind]
    return changed


@cache
def _weak_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 1024)  # noqa: S505  (weak on purpose)


words = st.one_of(
    st.sampled_from(["", "shop", "orders", "payments", "*", "mesh-system", "..", "shop/orders", "control-plane"]),
    st.text(max_size=12),
)
wishes = st.one_of(
    st.just(("", "")),
    st.tuples(st.sampled_from(["shop", "stock"]), st.sampled_from(["orders", "payments"])),
    st.tuples(words, words),
)
selectors = st.builds(
    ServiceSelector, st.sampled_from(["shop", "stock"]), st.sampled_from(["orders", "payments", None])
)


@pytest.mark.fault(16)
@settings(max_examples=150, deadline=None)
@given(
    allowed=st.lists(selectors, min_size=1, max_size=3, unique=True),
    wanted=st.none() | wishes,
    csr=requests(),
    etcd_csr=requests(),
)
def test_the_identity_is_one_that_was_attested(
    allowed: list[ServiceSelector], wanted: tuple[str, str] | None, csr: bytes, etcd_csr: bytes
) -> None:
    # None: one that fits, so that enough get in.
    namespace, name = wanted or (allowed[0].namespace, allowed[0].name or "orders")
    attestor = Says(*allowed)
    message = pb.JoinRequest(token="x", csr=csr, etcd_csr=etcd_csr, namespace=namespace, service=name)
    joining = service(attestor, MemoryStore())
    reply = outcome(lambda: joining.join(message, ANYBODY))
    if reply is None:
        assert not attestor.used  # nothing was used up for what nobody gets
        return
    identity = SpiffeId.parse(reply.spiffe_id)
    assert identity.service is not None
    assert any(one.selects(identity.service) for one in allowed)
    assert identity.service == (ServiceRef(namespace, name) if namespace or name else allowed[0].only)
    assert attestor.used == [reply.spiffe_id]
    leaf, etcd_leaf = (x509.load_der_x509_certificate(chain[0]) for chain in (reply.chain, reply.etcd_chain))
    assert leaf_identity(leaf) == identity
    san = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(one.value) for one in san] == [reply.spiffe_id]
    assert etcd_leaf.subject.rfc4514_string() == "CN=mesh-sidecar"
    for certificate, request in ((leaf, csr), (etcd_leaf, etcd_csr)):
        asked = x509.load_der_x509_csr(request)
        assert _spki(certificate) == _spki(asked)
        assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def _spki(one: x509.Certificate | x509.CertificateSigningRequest) -> bytes:
    return one.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


# -- evidence


def good_csr() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return request.public_bytes(Encoding.DER)


CSR = good_csr()
TOKEN = tokens.make(bytes(range(tokens.RANDOM_BYTES)))


def token_store() -> MemoryStore:
    store = MemoryStore()
    record = tokens.join_record(TOKEN, ServiceSelector("shop", "orders"), Terms(NOW, 3600, "x", "e"))
    store.values[store.keyspace.token(TOKEN.id)] = codec.encode(record)
    store.values[store.keyspace.epoch()] = codec.encode(Epoch(id="e"))
    return store


def _with_one_other(place: int, char: str) -> str:
    return TOKEN.text[:place] + char + TOKEN.text[place + 1 :]


token_texts = st.one_of(
    st.text(max_size=80),
    st.from_regex(r"[A-Za-z0-9_-]{43}", fullmatch=True).map(lambda secret: f"mjt1.{TOKEN.id}.{secret}"),
    st.builds(_with_one_other, st.integers(0, len(TOKEN.text) - 1), st.characters()),
    st.sampled_from([TOKEN.text, TOKEN.text + " ", TOKEN.text.upper(), TOKEN.text.replace("mjt1", "mlt1")]),
)


@pytest.mark.fault(17)
@settings(max_examples=300, deadline=None)
@given(token_texts)
def test_nothing_but_the_token_joins(text: str) -> None:
    ca, store = authority(), token_store()
    attestor = JoinTokenAttestor(store, ca.now, ca.random)
    message = pb.JoinRequest(csr=CSR, etcd_csr=CSR)
    try:
        message.token = text
    except (UnicodeEncodeError, ValueError):
        return  # no protobuf string
    reply = outcome(lambda: service(attestor, store).join(message, ANYBODY))
    assert (reply is not None) == (text == TOKEN.text)
    used = codec.decode(store.values[store.keyspace.token(TOKEN.id)], JoinToken, "token").used
    assert len(used) == (1 if reply else 0)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_proof_in_which_anything_is_changed_joins_nobody(data: st.DataObject) -> None:
    ca, store = authority(), MemoryStore()
    record = HostAuthority(
        name="corp",
        x509_authorities=(CORP.certificate.public_bytes(Encoding.DER),),
        rules=(HostRule(match="dns:db1.example.org", selector="shop/*"),),
        changed=0,
        changed_by="x",
    )
    store.values[store.keyspace.attestor("corp")] = codec.encode(record)
    attestor = X509Possession(store, lambda: TRUST_DOMAIN, _present, ca.random)
    chain = [HOST.certificate.public_bytes(Encoding.DER)]
    nonce = attestor.challenge().nonce
    signed = possession.statement(
        trust_domain=TRUST_DOMAIN, nonce=nonce, namespace="shop", service="orders", csr=CSR, etcd_csr=CSR, leaf=chain[0]
    )
    proof = pb.X509Possession(chain=chain, nonce=nonce, signature=possession.sign(HOST.key, signed))
    good = pb.JoinRequest(csr=CSR, etcd_csr=CSR, namespace="shop", service="orders", x509=proof)
    try:
        sent = pb.JoinRequest.FromString(_spoiled(data.draw, good.SerializeToString()))
    except DecodeError:
        return
    sent.DiscardUnknownFields()  # what nobody reads changes nothing

    async def attest(message: pb.JoinRequest) -> Attestation:
        return await attestor.attest(message, ANYBODY)

    if sent == good:
        assert trio.run(attest, sent).selectors == (ServiceSelector("shop", None),)
    elif sent.WhichOneof("evidence") == "x509":
        with pytest.raises(Unauthenticated):
            trio.run(attest, sent)


HOST = CORP.issue("db1", dns=["db1.example.org"])


def _present() -> float:
    return HOST.certificate.not_valid_before_utc.timestamp() + 400  # seconds: within its life


def test_a_use_is_told_with_what_was_issued_for_it() -> None:
    ca, store = authority(), token_store()
    attestor = JoinTokenAttestor(store, ca.now, ca.random)
    message = pb.JoinRequest(token=TOKEN.text, csr=CSR, etcd_csr=CSR)
    assert outcome(lambda: service(attestor, store).join(message, ANYBODY))
    (use,) = codec.decode(store.values[store.keyspace.token(TOKEN.id)], JoinToken, "token").used
    expected = TokenUse(
        at=int(NOW), by="ipv4:10.0.0.1:5", identity=f"spiffe://{TRUST_DOMAIN}/ns/shop/svc/orders", id=use.id
    )
    assert use == expected
    assert outcome(lambda: service(attestor, store).join(message, ANYBODY)) is None
