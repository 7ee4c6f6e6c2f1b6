"""What one user, and all of them, may ask of the Workload API at once."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Times in seconds. A connection takes two descriptors (its socket and the peer's pidfd), a call none."""

    connections: int = 256
    """512 descriptors: half of what a process has by default."""
    connections_per_uid: int = 128
    """A server with a process for each request, and a connection for each process."""
    strangers: int = 32
    """Connections of callers that no selector admits: they are told so, and take no room of those that are."""
    streams_per_connection: int = 32
    """A client follows three streams and fetches tokens; this is announced, so that clients queue what is above."""
    streams_per_uid: int = 256
    request_bytes: int = 64 * 1024
    """A token of 8 KiB, or 16 audiences."""
    header_bytes: int = 8 * 1024
    """As gRPC's own servers have it."""
    resets: int = 200
    """Calls that a client may take back, above those that were answered, before it is taken for an attack."""
    handshake: float = 5.0
    """Until the client's preface and settings are here."""
    request: float = 10.0
    """From a call's headers to the end of its request."""
    idle: float = 300.0
    """Without any call."""
    send: float = 30.0
    """Without the client taking anything of an answer."""
