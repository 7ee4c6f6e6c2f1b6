"""A line of a sidecar's access log, as far as it says who asked for what and what came of it. Pure.

The fields are those of docs/observability.md; lines of other versions have more, or fewer.
"""

import re
from collections.abc import Iterable, Iterator

import msgspec

from schemas.addresses import of_one_spelling

# Envoy's words for a denial of its RBAC, with the policy's name; it writes spaces in a name as '_'.
_DENIED = re.compile(r"rbac_access_denied_matched_policy\[(.*)\]")
# As Envoy's JWT filter words it; what has not even the form of a token is answered by a route.
_BAD_TOKEN = re.compile(r"jwt_authn_access_denied\{(.*)\}|direct_response")
_RULE = re.compile(r"([a-z0-9-]+)/([a-z0-9.-]+)\[([0-9]{1,9})\]")
_UNREADABLE = re.compile(r"([a-z0-9-]+)/([a-z0-9.-]+):[_ ]unreadable")


class LoggedRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What has nothing to say is empty."""

    request_id: str
    time: str = ""
    side: str = ""
    """``client`` or ``server``: of the sidecar that wrote it."""
    source: str = ""
    destination: str = ""
    method: str = ""
    authority: str = ""
    path: str = ""
    port: int = 0
    """Of the service; of the server alone."""
    downstream: str = ""
    """The caller's address and port."""
    status: int = 0
    grpc_status: str = ""
    flags: str = ""
    details: str = ""
    authorization_policy: str = ""
    authorization_audit: str = ""
    nearest: str = ""
    """``but for methods: shop/web-may-order[0]``: of what nothing allowed, which ALLOW came nearest."""
    rate_limit: str = ""
    """``shop/orders[0]``: the rule of a RateLimitPolicy that refused it; or several, with ``or`` between them."""
    revision: int = 0
    duration_ms: int = 0

    @property
    def denied_by(self) -> str | None:
        """As Envoy has it: ``shop/no-admin[0]``, ``none``, ``revoked``, …; None: this sidecar has not denied it."""
        match = _DENIED.fullmatch(self.details)
        return match[1] if match is not None and self.side == "server" else None

    @property
    def bad_token(self) -> str | None:
        """What was wrong with the token for which this sidecar refused it; None: it did not."""
        match = _BAD_TOKEN.fullmatch(self.details)
        if match is None or self.side != "server":
            return None
        return (match[1] or "not in the form of one").replace("_", " ")

    @property
    def address(self) -> str:
        """Of the caller's host, as rules are asked about it; empty where the line has none."""
        try:
            return of_one_spelling(self.downstream.rpartition(":")[0].strip("[]"))
        except ValueError:
            return ""


def rule_of(name: str) -> tuple[str, str, int] | None:
    """``shop/no-admin[0]`` as namespace, name and index."""
    match = _RULE.fullmatch(name)
    return None if match is None else (match[1], match[2], int(match[3]))


def unreadable_of(name: str) -> tuple[str, str] | None:
    """Namespace and name of a policy that could not be read, where that is what denied."""
    match = _UNREADABLE.fullmatch(name)
    return None if match is None else (match[1], match[2])


def logged_requests(lines: Iterable[str], request_id: str) -> Iterator[LoggedRequest]:
    """In their order. There may be other lines, and something before each entry, as journalctl does."""
    for line in lines:
        if request_id in line and (start := line.find("{")) >= 0:
            try:
                found = _decoder.decode(line[start:])
            except (ValueError, RecursionError):
                continue
            if found.request_id == request_id:
                yield found


_decoder = msgspec.json.Decoder(LoggedRequest, strict=False)
