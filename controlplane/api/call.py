"""What a service is told of a call, beside the request. Pure."""

from dataclasses import dataclass

from controlplane.api.caller import Caller

# For a caller that sets no deadline: long enough for an election of etcd, short enough that a person still waits.
DEFAULT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Call:
    """`seconds`: how long the caller waits for the answer."""

    caller: Caller
    seconds: float = DEFAULT_SECONDS
