"""A verdict of authorization, for people and as plain values. Pure."""

from collections.abc import Iterator
from typing import Any

from authz.judge import Lack, Reason, Verdict
from schemas.names import ObjectRef

_MEANS = {
    "from": "who calls",
    "identities": "the caller's identity",
    "namespaces": "the caller's namespace",
    "trustDomain": "the caller's trust domain",
    "to": "what is called",
    "methods": "the method",
    "paths": "the path",
    "ports": "the port",
}


def verdict_lines(verdict: Verdict) -> Iterator[str]:
    word = verdict.outcome.value
    match verdict.reason:
        case Reason.ALLOW | Reason.DENY:
            yield f"{word} by rule {verdict.rule} of {verdict.policy}"
        case Reason.UNREADABLE:
            yield f"{word}: {verdict.policy} can't be read, and until it can be nothing of its namespace is let in"
        case Reason.REVOKED:
            yield f"{word}: the caller's identity is revoked"
        case Reason.NOT_ADMITTED:
            yield f"{word}: the caller is no workload of the mesh, nor of a trust domain that is federated with it"
        case Reason.MALFORMED:
            yield f"{word} with 400 before any policy is asked: {verdict.detail}"
        case Reason.NOTHING_ALLOWS:
            yield f"{word}: no policy allows it"
            if verdict.nearest is None:
                yield "  no ALLOW policy has a rule for this service"
            else:
                yield f"  nearest: rule {verdict.nearest.rule} of {verdict.nearest.policy}, but for"
                yield from (f"    {_lack(one)}" for one in verdict.nearest.lacks)
    if verdict.path:
        yield f"  path as judged: {verdict.path}"


def _lack(lack: Lack) -> str:
    wanted = " or ".join(lack.wanted)
    if lack.never:
        return f"{_MEANS[lack.field]}: {lack.never}" + (f" (it wants {wanted})" if wanted else "")
    return f"{_MEANS[lack.field]}: it wants {wanted}, got {lack.got}"


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
        "nearest": nearest
        and {
            "policy": _named(nearest.policy),
            "rule": nearest.rule,
            "lacks": [
                {"field": one.field, "wanted": list(one.wanted), "got": one.got, "never": one.never}
                for one in nearest.lacks
            ],
        },
    }


def _named(ref: ObjectRef | None) -> dict[str, str] | None:
    return None if ref is None else {"namespace": ref.namespace, "name": ref.name}
