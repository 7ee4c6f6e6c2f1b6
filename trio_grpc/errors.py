"""What a remote procedure call can end with, on either side."""

from collections.abc import Sequence
from typing import Any

import grpc

Metadata = Sequence[tuple[str, str | bytes]]
"""Ordered key/value pairs; keys are lower-case, values of keys that end in `-bin` are bytes."""


# BoringSSL's words for a chain that ends in no root that we have. An expired certificate, or one for another name, is
# told otherwise.
_UNKNOWN_ROOT = (
    "unable to get local issuer certificate",
    "self signed certificate in certificate chain",
    "self-signed certificate in certificate chain",
)


def is_of_unknown_root(details: str) -> bool:
    """Whether a failure's details say that the server's certificate chains to none of the roots that we trust."""
    return "CERTIFICATE_VERIFY_FAILED" in details and any(words in details for words in _UNKNOWN_ROOT)


class RpcError(Exception):
    """Client side: a call or stream ended with a status that is not OK.

    `code` is the gRPC status, `details` the peer's (or gRPC's own) words, `trailing` the trailing metadata.
    """

    def __init__(self, code: grpc.StatusCode, details: str, trailing: Metadata = ()) -> None:
        super().__init__(code, details)
        self.code = code
        self.details = details
        self.trailing = tuple(trailing)

    def __str__(self) -> str:
        return f"{self.code.name}: {self.details}"

    @classmethod
    def of_call(cls, call: Any) -> "RpcError":
        """From a finished grpcio call (or the exception that it raised, which is the same object)."""
        trailing = tuple((pair[0], pair[1]) for pair in call.trailing_metadata() or ())
        return cls(call.code(), call.details() or "", trailing)


class RpcAbort(Exception):
    """Server side: raised by a handler to end the call with this status. `message` is sent to the caller as is."""

    def __init__(self, code: grpc.StatusCode, message: str, trailing: Metadata = ()) -> None:
        if code is grpc.StatusCode.OK:
            raise ValueError("RpcAbort needs a status other than OK: to end a call well, return from its handler")
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.trailing = tuple(trailing)


def find_abort(failure: BaseException) -> RpcAbort | None:
    """The RpcAbort that a handler raised, also out of its nurseries; None when anything else was raised with it."""
    if isinstance(failure, RpcAbort):
        return failure
    if isinstance(failure, BaseExceptionGroup):
        found = [find_abort(part) for part in failure.exceptions]
        return found[0] if None not in found else None
    return None


class BindError(OSError):
    """The server could not listen on an address; the message names it."""
