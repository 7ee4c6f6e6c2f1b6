"""Transport sockets and secrets: TLS 1.3 on both sides, exact identities, nothing inline but in SDS."""

import base64
from collections.abc import Iterable, Mapping

from envoy.config.core.v3 import base_pb2, config_source_pb2
from envoy.extensions.transport_sockets.tls.v3 import common_pb2, secret_pb2, tls_pb2, tls_spiffe_validator_config_pb2
from google.protobuf import any_pb2

from dataplane.compile.resources import SECRET, Message, Resource
from dataplane.compile.workload import Credentials, KeyPair
from schemas.names import SpiffeId
from schemas.objects.common import CertificateFiles
from schemas.records import TrustBundle

OWN_SVID = "svid"
TRUST = "trust"

# What a caller offers (ALPN, RFC 7301) that speaks the app's own protocol: the receiver need not read it.
BYTES_ALPN = "mesh-bytes"

_TLS_1_3 = common_pb2.TlsParameters.TLSv1_3


def packed(message: object) -> any_pb2.Any:
    """`message` in an Any, with deterministic bytes."""
    result = any_pb2.Any()
    result.Pack(message, deterministic=True)  # type: ignore[arg-type]  # xds-protos has no types
    return result


def ads_source() -> config_source_pb2.ConfigSource:
    return config_source_pb2.ConfigSource(
        ads=config_source_pb2.AggregatedConfigSource(), resource_api_version=config_source_pb2.ApiVersion.V3
    )


def file_name(files: CertificateFiles) -> str:
    """The secret that holds them."""
    return f"file|{files.certificate}|{files.key}"


def _common(matchers: Iterable[common_pb2.SubjectAltNameMatcher], trust: str = TRUST) -> tls_pb2.CommonTlsContext:
    sds = secret_pb2.SdsSecretConfig
    return tls_pb2.CommonTlsContext(
        # The maximum too: the client side's default maximum is TLS 1.2, which is below this minimum.
        tls_params=common_pb2.TlsParameters(
            tls_minimum_protocol_version=_TLS_1_3, tls_maximum_protocol_version=_TLS_1_3
        ),
        tls_certificate_sds_secret_configs=[sds(name=OWN_SVID, sds_config=ads_source())],
        combined_validation_context=tls_pb2.CommonTlsContext.CombinedCertificateValidationContext(
            default_validation_context=common_pb2.CertificateValidationContext(match_typed_subject_alt_names=matchers),
            validation_context_sds_secret_config=sds(name=trust, sds_config=ads_source()),
        ),
    )


def _uri(**how: str) -> common_pb2.SubjectAltNameMatcher:
    matcher = common_pb2.SubjectAltNameMatcher(san_type=common_pb2.SubjectAltNameMatcher.URI)
    for kind, value in how.items():
        setattr(matcher.matcher, kind, value)
    return matcher


def downstream(trust_domain: str) -> base_pb2.TransportSocket:
    """mTLS that takes any workload of the own trust domain, and what federated ones identify; which of them may do what
    is authorization's to say.

    Those of federated ones come with the secret, beside the keys by which they are believed: listeners stay as they
    are. Envoy puts the names of both together (CombinedCertificateValidationContext).
    """
    own = _uri(prefix=f"spiffe://{trust_domain}/ns/")
    context = tls_pb2.DownstreamTlsContext(common_tls_context=_common([own]))
    context.require_client_certificate.value = True
    # A resumed session would carry on the trust of the day it began: a removed root must end it.
    context.disable_stateless_session_resumption = True
    context.disable_stateful_session_resumption = True
    return base_pb2.TransportSocket(name="envoy.transport_sockets.tls", typed_config=packed(context))


def upstream(server: SpiffeId, trust_domain: str, *, as_bytes: bool = False) -> base_pb2.TransportSocket:
    """mTLS to exactly that server: being of the same trust domain is not enough.

    trust_domain: whose authorities are asked, and no others', whatever other names the certificate has. The server's
    own, or one of which it is not, where nobody vouches for the server.
    as_bytes: what goes in it is in the app's own protocol, for its sidecar to pass on.
    """
    context = tls_pb2.UpstreamTlsContext(common_tls_context=_common([_uri(exact=str(server))], trust_of(trust_domain)))
    if as_bytes:
        context.common_tls_context.alpn_protocols.append(BYTES_ALPN)
    context.max_session_keys.value = 0  # no resumption, as above
    return base_pb2.TransportSocket(name="envoy.transport_sockets.tls", typed_config=packed(context))


def trust_of(trust_domain: str) -> str:
    """The name of the secret by which servers of that trust domain are believed."""
    return f"{TRUST}|{trust_domain}"


def secrets(
    credentials: Credentials | None, trust_domain: str, federated: Iterable[str], bundles: Iterable[TrustBundle]
) -> list[Resource]:
    """The own SVID, and whom to trust: each peer by the bundle of its own trust domain, by no other (X509-SVID 5).

    trust_domain: the own one. federated: the others, whether their bundles are known or not.
    """
    if credentials is None:
        return []
    own = common_pb2.TlsCertificate()
    own.certificate_chain.inline_bytes = credentials.chain_pem
    own.private_key.inline_bytes = credentials.key_pem
    trusted = {bundle.trust_domain: _pem(bundle.x509_authorities) for bundle in bundles if bundle.x509_authorities}
    others = sorted(set(federated) - {trust_domain})
    return [
        _secret(secret_pb2.Secret(name=OWN_SVID, tls_certificate=own)),
        _trust(TRUST, trusted, credentials, [_uri(prefix=f"spiffe://{one}/") for one in others]),
        *(
            _trust(trust_of(one), {one: trusted[one]} if one in trusted else {}, credentials)
            for one in sorted((trust_domain, *others))
        ),
    ]


def _trust(
    name: str,
    trusted: Mapping[str, bytes],
    credentials: Credentials,
    names: Iterable[common_pb2.SubjectAltNameMatcher] = (),
) -> Resource:
    """names: that are taken beside those of the context that refers to the secret."""
    if not trusted:
        # Envoy keeps the last secret when one is withdrawn, and takes none without a certificate. So "nobody" is said
        # with a name that no peer can have, and the one certificate that is at hand.
        trusted = {"nobody.invalid": credentials.chain_pem}
    validator = tls_spiffe_validator_config_pb2.SPIFFECertValidatorConfig()
    for domain in sorted(trusted):
        validator.trust_domains.add(name=domain).trust_bundle.inline_bytes = trusted[domain]
    trust = common_pb2.CertificateValidationContext(match_typed_subject_alt_names=names)
    trust.custom_validator_config.name = "envoy.tls.cert_validator.spiffe"
    trust.custom_validator_config.typed_config.CopyFrom(packed(validator))
    return _secret(secret_pb2.Secret(name=name, validation_context=trust))


def file_secrets(
    certificates: Mapping[CertificateFiles, KeyPair], wanted: Iterable[CertificateFiles]
) -> list[Resource]:
    """Of those of `wanted` that there are."""
    return [pair_secret(file_name(files), certificates[files]) for files in sorted(set(wanted) & certificates.keys())]


def pair_secret(name: str, pair: KeyPair) -> Resource:
    secret = secret_pb2.Secret(name=name)
    secret.tls_certificate.certificate_chain.inline_bytes = pair.chain_pem
    secret.tls_certificate.private_key.inline_bytes = pair.key_pem
    return _secret(secret)


def public(secrets: Iterable[str]) -> base_pb2.TransportSocket:
    """TLS for anybody: no certificate is asked of the client. secrets: names of those with our own."""
    context = tls_pb2.DownstreamTlsContext()
    common = context.common_tls_context
    common.tls_params.tls_minimum_protocol_version = common_pb2.TlsParameters.TLSv1_2
    common.tls_params.tls_maximum_protocol_version = _TLS_1_3
    common.alpn_protocols.extend(("h2", "http/1.1"))
    for name in secrets:
        common.tls_certificate_sds_secret_configs.add(name=name, sds_config=ads_source())
    return base_pb2.TransportSocket(name="envoy.transport_sockets.tls", typed_config=packed(context))


def _secret(secret: Message) -> Resource:
    return Resource.of(SECRET, secret.name, secret)  # type: ignore[attr-defined]  # xds-protos has no types


def _pem(certificates: Iterable[bytes]) -> bytes:
    """DER certificates as one PEM text (RFC 7468: 64 characters a line)."""
    blocks = []
    for der in certificates:
        text = base64.b64encode(der)
        lines = [text[at : at + 64] for at in range(0, len(text), 64)]
        blocks.append(b"\n".join([b"-----BEGIN CERTIFICATE-----", *lines, b"-----END CERTIFICATE-----", b""]))
    return b"".join(blocks)
