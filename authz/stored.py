"""What is wrong with policies of authorization and authentication beyond their schemas; whether stored ones are
understood in full. Pure."""

from collections.abc import Iterator
from ipaddress import ip_network

import msgspec

from authz.tokens import authentication_faults
from schemas import checking
from schemas.errors import Corrupt, Problem
from schemas.objects import AuthorizationPolicy, RequestAuthentication
from schemas.objects.authorization import AuthorizationPolicySpec


def policy_faults(spec: AuthorizationPolicySpec) -> Iterator[checking.Fault]:
    """Paths begin at the object."""
    for number, rule in enumerate(spec.rules):
        for index, source in enumerate(rule.from_ or ()):
            for name, blocks in (("ipBlocks", source.ip_blocks), ("notIpBlocks", source.not_ip_blocks)):
                for place, block in enumerate(blocks or ()):
                    if not _is_block(block):
                        path = ("spec", "rules", number, "from", index, name, place)
                        yield checking.Fault(path, f"{block!r} is no IP block", "write 10.1.0.0/16, or 10.1.2.3")


def _is_block(text: str) -> bool:
    try:
        ip_network(text, strict=False)
    except ValueError:
        return False
    return True


def check_understood(policy: AuthorizationPolicy | RequestAuthentication, data: bytes, subject: str) -> None:
    """`data`: what `policy` was decoded from. Raises Corrupt.

    Of other objects an unknown field is passed over. Of a policy it may be a condition that a newer replica knows:
    without it an ALLOW would allow more. Of a RequestAuthentication, what a token must be.
    """
    if isinstance(policy, AuthorizationPolicy):
        wrong = next(policy_faults(policy.spec), None)
    else:
        wrong = next(authentication_faults(policy.spec), None)
    if wrong is not None:
        raise Corrupt(Problem(subject, wrong.message, checking.json_path(wrong.path), wrong.remedy))
    spec = msgspec.msgpack.decode(data)["spec"]
    if spec == msgspec.msgpack.decode(msgspec.msgpack.encode(policy.spec)):
        return  # all of it was understood; else a default may be written out, or a field be unknown
    fault = next(checking.faults(spec, type(policy.spec), ("spec",)), None)
    if fault is not None:
        remedy = "upgrade the mesh's software here, or write the policy again"
        raise Corrupt(Problem(subject, fault.message, checking.json_path(fault.path), remedy))
