"""What is wrong with policies of authorization and authentication beyond their schemas; whether stored ones are
understood in full. Pure."""

from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network, ip_network

import msgspec

from authz.peers import peer_faults
from authz.tokens import authentication_faults
from schemas import checking, codec
from schemas.errors import Corrupt, Problem
from schemas.objects import AuthorizationPolicy, Mesh, PeerAuthentication, RequestAuthentication
from schemas.objects.authorization import AuthorizationPolicySpec
from schemas.objects.common import Part


def policy_faults(spec: AuthorizationPolicySpec) -> Iterator[checking.Fault]:
    """Paths begin at the object."""
    for number, rule in enumerate(spec.rules):
        for index, source in enumerate(rule.from_ or ()):
            for name, blocks in (("ipBlocks", source.ip_blocks), ("notIpBlocks", source.not_ip_blocks)):
                for place, block in enumerate(blocks or ()):
                    fault = _block_fault(block, ("spec", "rules", number, "from", index, name, place))
                    if fault is not None:
                        yield fault


_MAPPED = IPv6Network("::ffff:0:0/96")  # IPv4 addresses as IPv6 has them (RFC 4291, 2.5.5.2)


def _block_fault(text: str, path: tuple[str | int, ...]) -> checking.Fault | None:
    try:
        block = ip_network(text, strict=False)
    except ValueError:
        return checking.Fault(path, f"{text!r} is no IP block", "write 10.1.0.0/16, or 10.1.2.3")
    if isinstance(block, IPv4Network) or not block.subnet_of(_MAPPED):
        return None
    # Envoy has the addresses of such callers as IPv4, and compares those with blocks of IPv4 only.
    mapped = IPv4Network((int(block.network_address) & 0xFFFFFFFF, block.prefixlen - _MAPPED.prefixlen))
    instead = str(mapped.network_address) if mapped.prefixlen == mapped.max_prefixlen else str(mapped)
    return checking.Fault(path, f"{text!r} is a block of IPv4 and matches nobody", f"write {instead}")


def check_understood(
    policy: AuthorizationPolicy | RequestAuthentication | PeerAuthentication | Mesh, data: bytes, subject: str
) -> None:
    """`data`: what `policy` was decoded from. Raises Corrupt.

    Of other objects an unknown field is passed over. Of a policy it may be a condition that a newer replica knows:
    without it an ALLOW would allow more. Of a RequestAuthentication, what a token must be; of a PeerAuthentication,
    whom it is not for; of the Mesh's `authorization`, whom its default action is not for.
    """
    if isinstance(policy, Mesh):
        stored = codec.decode_plain(data, subject)["spec"].get("authorization", {})
        _check_known(stored, policy.spec.authorization, ("spec", "authorization"), subject)
        return
    if isinstance(policy, AuthorizationPolicy):
        wrong = next(policy_faults(policy.spec), None)
    elif isinstance(policy, PeerAuthentication):
        wrong = next(peer_faults(policy.spec), None)
    else:
        wrong = next(authentication_faults(policy.spec), None)
    if wrong is not None:
        raise Corrupt(Problem(subject, wrong.message, checking.json_path(wrong.path), wrong.remedy))
    _check_known(codec.decode_plain(data, subject)["spec"], policy.spec, ("spec",), subject)


def _check_known(stored: object, understood: Part, path: checking.Path, subject: str) -> None:
    if stored == msgspec.msgpack.decode(msgspec.msgpack.encode(understood)):
        return  # all of it was understood; else a default may be written out, or a field be unknown
    fault = next(checking.faults(stored, type(understood), path), None)
    if fault is not None:
        remedy = "upgrade the mesh's software here, or write the policy again"
        raise Corrupt(Problem(subject, fault.message, checking.json_path(fault.path), remedy))
