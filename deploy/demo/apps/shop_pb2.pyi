from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class ChargeRequest(_message.Message):
    __slots__ = ("order", "cents")
    ORDER_FIELD_NUMBER: _ClassVar[int]
    CENTS_FIELD_NUMBER: _ClassVar[int]
    order: str
    cents: int
    def __init__(self, order: _Optional[str] = ..., cents: _Optional[int] = ...) -> None: ...

class ChargeReply(_message.Message):
    __slots__ = ("receipt", "peer")
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    PEER_FIELD_NUMBER: _ClassVar[int]
    receipt: str
    peer: str
    def __init__(self, receipt: _Optional[str] = ..., peer: _Optional[str] = ...) -> None: ...
