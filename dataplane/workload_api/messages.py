"""What the Workload API says, as its messages. Pure.

https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE_Workload_API.md (sections 5 and 6). Every message is the
full state: what is absent from it is no longer valid.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.struct_pb2 import Struct

from dataplane.workload_api import workload_pb2 as pb
from dataplane.workload_api.svid import WorkloadSvid
from schemas.names import SpiffeId
from schemas.records import TrustBundle
from spiffe.bundle import certificates, jwt_keys
from spiffe.jwks import encode_jwt_keys
from spiffe.jwt import InvalidToken, PublicKey, Verified


@dataclass(frozen=True, slots=True)
class Trust:
    """Whom to believe: the bundle of the own trust domain and those of others, each checked to be whole."""

    own: TrustBundle
    federated: Mapping[str, TrustBundle] = field(default_factory=dict)

    @property
    def all(self) -> tuple[TrustBundle, ...]:
        return (self.own, *(self.federated[name] for name in sorted(self.federated)))

    def jwt_keys(self) -> dict[str, dict[str, PublicKey]]:
        return jwt_keys(self.all)


def check_bundle(bundle: TrustBundle) -> None:
    """Raises Corrupt: a bundle is believed whole or not at all."""
    certificates(bundle)
    jwt_keys([bundle])


def x509_svids(svid: WorkloadSvid, trust: Trust) -> pb.X509SVIDResponse:
    """The only identity of the caller is its default; with one there is nothing for a hint to tell apart."""
    return pb.X509SVIDResponse(
        svids=[
            pb.X509SVID(
                spiffe_id=str(svid.spiffe_id),
                x509_svid=b"".join(svid.chain),
                x509_svid_key=svid.key,
                bundle=b"".join(trust.own.x509_authorities),
            )
        ],
        federated_bundles=_x509(trust.federated.values()),
    )


def x509_bundles(trust: Trust) -> pb.X509BundlesResponse:
    return pb.X509BundlesResponse(bundles=_x509(trust.all))


def _x509(bundles: Iterable[TrustBundle]) -> dict[str, bytes]:
    return {_name(bundle): b"".join(bundle.x509_authorities) for bundle in bundles}


def jwt_bundles(trust: Trust) -> pb.JWTBundlesResponse:
    return pb.JWTBundlesResponse(bundles={_name(bundle): encode_jwt_keys(bundle) for bundle in trust.all})


def _name(bundle: TrustBundle) -> str:
    return str(SpiffeId(bundle.trust_domain, ""))


def jwt_svid(spiffe_id: SpiffeId, token: str) -> pb.JWTSVIDResponse:
    return pb.JWTSVIDResponse(svids=[pb.JWTSVID(spiffe_id=str(spiffe_id), svid=token)])


def validated(verified: Verified) -> pb.ValidateJWTSVIDResponse:
    return pb.ValidateJWTSVIDResponse(spiffe_id=str(verified.spiffe_id), claims=_struct(verified.claims))


def _struct(claims: Mapping[str, Any]) -> Struct:
    """Raises InvalidToken for claims that google.protobuf.Struct can't hold: nested too deeply."""
    try:
        return ParseDict(dict(claims), Struct())
    except (ParseError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidToken("the token's claims can't be said in a google.protobuf.Struct") from error
