"""An etcd v3 client for trio.

    async with open_etcd(["https://10.0.0.1:2379", "https://10.0.0.2:2379"], tls=TLS(ca, cert, key)) as etcd:
        listing = await etcd.list(b"/app/")
        async with etcd.watch(b"/app/", prefix=True, start_revision=listing.revision + 1) as watch:
            async for batch in watch:          # one whole revision each, in order, once, through any cut
                for event in batch.events:
                    ...

Calls have deadlines; reads are retried on other members, writes never blindly (`EtcdError.maybe_applied`). Watches
raise Compacted or StoreReplaced when only a new listing helps. Administration of users and roles: `trio_etcd.auth`.
"""

from trio_grpc import TLS

from .client import Client, open_etcd
from .errors import (
    AlreadyExists,
    CallerError,
    Compacted,
    Corrupt,
    CredentialsRefused,
    DeadlineExceeded,
    EtcdError,
    Fault,
    FutureRevision,
    InvalidRequest,
    LeaseLost,
    LeaseNotFound,
    NoLeader,
    NoSpace,
    NotFound,
    Overloaded,
    PermissionDenied,
    RequestTooLarge,
    ResponseTooLarge,
    ServerError,
    StoreReplaced,
    TooManyOperations,
    Unauthenticated,
    Unavailable,
)
from .lease import KeepAlive
from .link import Link, LinkState
from .types import (
    Alarm,
    AlarmState,
    Compare,
    Delete,
    DeleteResult,
    Event,
    Get,
    KeyValue,
    LeaseGrant,
    LeaseStatus,
    Listing,
    Member,
    Op,
    OpResult,
    Progress,
    Put,
    PutResult,
    RangeResult,
    Relation,
    Status,
    Target,
    TxnResult,
    WatchBatch,
    parse_version,
    prefix_range,
)
from .watch import Watch

__all__ = [
    "TLS",
    "Alarm",
    "AlarmState",
    "AlreadyExists",
    "CallerError",
    "Client",
    "Compacted",
    "Compare",
    "Corrupt",
    "CredentialsRefused",
    "DeadlineExceeded",
    "Delete",
    "DeleteResult",
    "EtcdError",
    "Event",
    "Fault",
    "FutureRevision",
    "Get",
    "InvalidRequest",
    "KeepAlive",
    "KeyValue",
    "LeaseGrant",
    "LeaseLost",
    "LeaseNotFound",
    "LeaseStatus",
    "Link",
    "LinkState",
    "Listing",
    "Member",
    "NoLeader",
    "NoSpace",
    "NotFound",
    "Op",
    "OpResult",
    "Overloaded",
    "PermissionDenied",
    "Progress",
    "Put",
    "PutResult",
    "RangeResult",
    "Relation",
    "RequestTooLarge",
    "ResponseTooLarge",
    "ServerError",
    "Status",
    "StoreReplaced",
    "Target",
    "TooManyOperations",
    "TxnResult",
    "Unauthenticated",
    "Unavailable",
    "Watch",
    "WatchBatch",
    "open_etcd",
    "parse_version",
    "prefix_range",
]
