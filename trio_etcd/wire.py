"""Values ⇄ protobuf messages, and the method paths; nothing else in the package reads or builds a KV message."""

from collections.abc import Iterable

from . import types as t
from ._proto import etcd_pb2 as pb

RANGE = "/etcdserverpb.KV/Range"
PUT = "/etcdserverpb.KV/Put"
DELETE_RANGE = "/etcdserverpb.KV/DeleteRange"
TXN = "/etcdserverpb.KV/Txn"
COMPACT = "/etcdserverpb.KV/Compact"
WATCH = "/etcdserverpb.Watch/Watch"
LEASE_GRANT = "/etcdserverpb.Lease/LeaseGrant"
LEASE_REVOKE = "/etcdserverpb.Lease/LeaseRevoke"
LEASE_KEEP_ALIVE = "/etcdserverpb.Lease/LeaseKeepAlive"
LEASE_TIME_TO_LIVE = "/etcdserverpb.Lease/LeaseTimeToLive"
LEASE_LEASES = "/etcdserverpb.Lease/LeaseLeases"
MEMBER_LIST = "/etcdserverpb.Cluster/MemberList"
STATUS = "/etcdserverpb.Maintenance/Status"
ALARM = "/etcdserverpb.Maintenance/Alarm"

HAS_LEADER = (("hasleader", "true"),)
"""Ends a stream when its member loses the leader; without it a cut-off member stays silent for ever."""


def key_value(message: pb.KeyValue) -> t.KeyValue:
    return t.KeyValue(
        message.key,
        message.value,
        message.mod_revision,
        message.create_revision,
        message.version,
        message.lease,
    )


def event(message: pb.Event) -> t.Event:
    previous = key_value(message.prev_kv) if message.HasField("prev_kv") else None
    return t.Event(key_value(message.kv), message.type == pb.Event.DELETE, previous)


def range_result(message: pb.RangeResponse, revision: int) -> t.RangeResult:
    return t.RangeResult(revision, tuple(map(key_value, message.kvs)), message.more, message.count)


def put_result(message: pb.PutResponse, revision: int) -> t.PutResult:
    return t.PutResult(revision, key_value(message.prev_kv) if message.HasField("prev_kv") else None)


def delete_result(message: pb.DeleteRangeResponse, revision: int) -> t.DeleteResult:
    return t.DeleteResult(revision, message.deleted, tuple(map(key_value, message.prev_kvs)))


def txn_request(compare: Iterable[t.Compare], success: Iterable[t.Op], failure: Iterable[t.Op]) -> pb.TxnRequest:
    return pb.TxnRequest(
        compare=map(_compare, compare), success=map(_request_op, success), failure=map(_request_op, failure)
    )


def txn_result(message: pb.TxnResponse) -> t.TxnResult:
    revision = message.header.revision
    results = tuple(_response_op(response, revision) for response in message.responses)
    return t.TxnResult(message.succeeded, revision, results)


def _compare(compare: t.Compare) -> pb.Compare:
    message = pb.Compare(
        key=compare.key,
        range_end=compare.range_end,
        target=compare.target.name,
        result=compare.relation.name,
    )
    try:
        setattr(message, compare.target.value, compare.operand)
    except TypeError:
        wanted = "bytes" if compare.target is t.Target.VALUE else "an int"
        got = type(compare.operand).__name__
        raise TypeError(f"a comparison of {compare.target.value} needs {wanted}, not {got}") from None
    return message


def _request_op(op: t.Op) -> pb.RequestOp:
    match op:
        case t.Put():
            put = pb.PutRequest(key=op.key, value=op.value, lease=op.lease, prev_kv=op.want_previous)
            return pb.RequestOp(request_put=put)
        case t.Get():
            read = pb.RangeRequest(
                key=op.key,
                range_end=op.range_end,
                limit=op.limit,
                keys_only=op.keys_only,
                count_only=op.count_only,
            )
            return pb.RequestOp(request_range=read)
        case t.Delete():
            delete = pb.DeleteRangeRequest(key=op.key, range_end=op.range_end, prev_kv=op.want_previous)
            return pb.RequestOp(request_delete_range=delete)


def _response_op(message: pb.ResponseOp, revision: int) -> t.OpResult:
    match message.WhichOneof("response"):
        case "response_put":
            return put_result(message.response_put, revision)
        case "response_range":
            return range_result(message.response_range, revision)
        case "response_delete_range":
            return delete_result(message.response_delete_range, revision)
        case other:
            raise ValueError(f"etcd answered a transaction with {other}, which was not asked for")


def status(message: pb.StatusResponse) -> t.Status:
    return t.Status(
        version=message.version,
        cluster_id=message.header.cluster_id,
        member_id=message.header.member_id,
        leader=message.leader,
        revision=message.header.revision,
        raft_term=message.raftTerm,
        db_size=message.dbSize,
        db_size_in_use=message.dbSizeInUse,
        is_learner=message.isLearner,
        errors=tuple(message.errors),
    )


def member(message: pb.Member) -> t.Member:
    urls = tuple(message.peerURLs), tuple(message.clientURLs)
    return t.Member(message.ID, message.name, *urls, message.isLearner)
