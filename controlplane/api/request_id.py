"""Idempotency keys of requests. Pure."""

import hashlib
import re

from google.protobuf.message import Message

from controlplane.api.caller import Caller
from controlplane.store.requests import Request
from schemas.errors import InvalidInput, Problem

# Room for a UUID and a prefix; nothing that would be a path in etcd.
_FORM = re.compile(r"[A-Za-z0-9_-]{8,64}")


def request_of(message: Message, caller: Caller) -> Request:
    """`message` has the field `request_id`. Two callers, or two contents, are two requests. Raises InvalidInput."""
    request_id: str = message.request_id  # type: ignore[attr-defined]  # of every write's message
    if not _FORM.fullmatch(request_id):
        remedy = "send 8 to 64 of a-z, A-Z, 0-9, '_' and '-', new for each write, the same when asking again"
        raise InvalidInput(Problem("request", f"{request_id[:80]!r} is no request id", "request_id", remedy))
    content = type(message)()
    content.CopyFrom(message)
    content.ClearField("request_id")
    encoded = content.SerializePartialToString(deterministic=True)
    digest = hashlib.sha256()
    for part in (content.DESCRIPTOR.full_name.encode(), str(caller).encode(), encoded):
        digest.update(len(part).to_bytes(8, "big") + part)
    return Request(request_id, digest.digest())
