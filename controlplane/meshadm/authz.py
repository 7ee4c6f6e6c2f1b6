"""A verdict of authorization, for people and as plain values. Pure."""

from collections.abc import Iterator, Sequence
from typing import Any

from authz.judge import Lack, Reason, Verdict
from authz.rules import MESH
from controlplane.meshadm.authz_cases import Result
from schemas.names import ObjectRef

_MEANS = {
    "from": "who calls",
    "identities": "the caller's identity",
    "namespaces": "the caller's namespace",
    "trustDomains": "the caller's trust domain",
    "trustDomain": "the caller's trust domain",
    "ipBlocks": "the caller's address",
    "requestPrincipals": "the token's principal",
    "when": "the token's claim ",
    "to": "what is called",
    "methods": "the method",
    "paths": "the path",
    "hosts": "the host",
    "headers": "the headers",
    "grpc": "the gRPC method",
    "ports": "the port",
}


def verdict_lines(verdict: Verdict) -> Iterator[str]:
    word = verdict.outcome.value
    match verdict.reason:
        case Reason.ALLOW if verdict.policy == MESH:
            yield f"{word} by authorization.defaultAction of {verdict.policy}: no DENY refuses it"
        case Reason.ALLOW | Reason.DENY:
            yield f"{word} by rule {verdict.rule} of {verdict.policy}"
        case Reason.UNREADABLE:
            yield f"{word}: {verdict.policy} can't be read, and until it can be nothing of its namespace is let in"
        case Reason.REVOKED:
            yield f"{word}: the caller's identity is revoked"
        case Reason.NOT_ADMITTED:
            yield f"{word}: the caller is no workload of the mesh, nor of a trust domain that is federated with it"
        case Reason.PLAINTEXT:
            yield f"{word}: the port takes mTLS only, and no PeerAuthentication says otherwise"
        case Reason.BAD_TOKEN:
            yield f"{word} with {verdict.detail}, before any policy is asked"
        case Reason.MALFORMED:
            yield f"{word} with 400 before any policy is asked: {verdict.detail}"
        case Reason.NOTHING_ALLOWS:
            yield f"{word}: no policy allows it"
            if verdict.nearest is None:
                yield "  no ALLOW policy has a rule for this service"
            else:
                yield f"  nearest: rule {verdict.nearest.rule} of {verdict.nearest.policy}, but for"
                yield from (f"    {_lack(one)}" for one in verdict.nearest.lacks)
    for policy, rule in verdict.audits:
        yield f"  rule {rule} of {policy} would deny it: it is of an AUDIT policy, and only counts"
    if verdict.path:
        yield f"  path as judged: {verdict.path}"


def _lack(lack: Lack) -> str:
    wanted = ("none of " if lack.negated else "") + " or ".join(lack.wanted)
    what = _MEANS[lack.field] + ".".join(lack.claim)
    if lack.never:
        return f"{what}: {lack.never}" + (f" (it wants {wanted})" if wanted else "")
    if not lack.known:
        return f"{what}: it wants {wanted}; no log says what the request had"
    return f"{what}: it wants {wanted}, got {lack.got or 'nothing'}"


def plain_verdict(verdict: Verdict) -> dict[str, Any]:
    """As in docs/meshadm.md; `policy`, `rule` and `nearest` are null where there is none."""
    nearest = verdict.nearest
    return {
        "outcome": verdict.outcome.value,
        "reason": verdict.reason.name,
        "policy": _named(verdict.policy),
        "rule": verdict.rule,
        "path": verdict.path,
        "detail": verdict.detail,
        "audits": [{"policy": _named(policy), "rule": rule} for policy, rule in verdict.audits],
        "nearest": nearest
        and {
            "policy": _named(nearest.policy),
            "rule": nearest.rule,
            "lacks": [_plain_lack(one) for one in nearest.lacks],
        },
    }


def _plain_lack(one: Lack) -> dict[str, Any]:
    wanted = list(one.wanted)
    said: dict[str, Any] = {
        "field": one.field,
        "wanted": wanted,
        "negated": one.negated,
        "got": one.got,
        "never": one.never,
    }
    if not one.known:
        said["known"] = False
    return {**said, "claim": list(one.claim)} if one.claim else said


def _named(ref: ObjectRef | None) -> dict[str, str] | None:
    return None if ref is None else {"namespace": ref.namespace, "name": ref.name}


def test_lines(found: Sequence[tuple[str, Result]]) -> Iterator[str]:
    """Only what is not as expected, and how many are."""
    failed = [(source, one) for source, one in found if not one.passed]
    for source, one in failed:
        case = one.case
        yield f"{source}: {case.name or f'{case.from_} to {case.to}'}: {case.method} {case.path}"
        yield f"  expected {case.expect}" + (f" by {case.by}" if case.by is not None else "") + ", but:"
        yield from (f"  {text}" for text in verdict_lines(one.verdict))
    yield f"{len(found) - len(failed)} of {len(found)} cases as expected"


def plain_tests(found: Sequence[tuple[str, Result]]) -> dict[str, Any]:
    """As in docs/meshadm.md."""
    cases = [
        {
            "source": source,
            "name": one.case.name,
            "from": one.case.from_,
            "to": one.case.to,
            "expect": one.case.expect,
            "by": one.case.by,
            "passed": one.passed,
            "verdict": plain_verdict(one.verdict),
        }
        for source, one in found
    ]
    return {"passed": all(one.passed for _, one in found), "cases": cases}
