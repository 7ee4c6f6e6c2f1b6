"""What stands in etcd by nobody's leave."""

from __future__ import annotations

from typing import Any

import msgspec

# Each well formed for who skips it, and nothing that can be read: text that is no UTF-8, a map as a map's key, a
# timestamp with more nanoseconds than a second has.
UNREADABLE = (b"\xa2\xff\xfe", b"\x81\x80\x01", b"\xd7\xff" + b"\xff" * 8)


def with_field(value: bytes, name: str, content: object) -> bytes:
    """`value`, a map in MessagePack, with one field more; msgspec.Raw goes in as it is."""
    plain: dict[str, Any] = msgspec.msgpack.decode(value)
    return msgspec.msgpack.encode(plain | {name: content})
