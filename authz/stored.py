"""Whether a stored AuthorizationPolicy was understood in full. Pure."""

import msgspec

from schemas import checking
from schemas.errors import Corrupt, Problem
from schemas.objects import AuthorizationPolicy
from schemas.objects.authorization import AuthorizationPolicySpec


def check_understood(policy: AuthorizationPolicy, data: bytes, subject: str) -> None:
    """`data`: what `policy` was decoded from. Raises Corrupt.

    Of other objects an unknown field is passed over. Of a policy it may be a condition that a newer replica knows:
    without it an ALLOW would allow more.
    """
    spec = msgspec.msgpack.decode(data)["spec"]
    if spec == msgspec.msgpack.decode(msgspec.msgpack.encode(policy.spec)):
        return  # all of it was understood; else a default may be written out, or a field be unknown
    fault = next(checking.faults(spec, AuthorizationPolicySpec, ("spec",)), None)
    if fault is not None:
        remedy = "upgrade the mesh's software here, or write the policy again"
        raise Corrupt(Problem(subject, fault.message, checking.json_path(fault.path), remedy))
