"""What clients may ask of a server at once."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Times in seconds. A connection takes a descriptor, a call none."""

    connections: int = 256
    """A quarter of the descriptors that a process has by default."""
    connections_per_uid: int = 128
    """A server with a process for each request, and a connection for each process."""
    streams_per_connection: int = 32
    """Announced, so that clients queue what is above."""
    streams_per_uid: int = 256
    message_bytes: int = 4 * 1024 * 1024
    """As gRPC's own servers have it."""
    messages: int = 16
    """Of one call, received and not yet taken by its handler; above it flow control holds the client back."""
    header_bytes: int = 8 * 1024
    """As gRPC's own servers have it."""
    resets: int = 200
    """Calls that a client may take back, above those that were answered, before it is taken for an attack."""
    handshake: float = 5.0
    """Until the client's preface and settings are here."""
    idle: float = 300.0
    """Without any call."""
    send: float = 30.0
    """Without the client taking anything of what is sent."""
