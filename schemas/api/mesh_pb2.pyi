from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ObjectKey(_message.Message):
    __slots__ = ("kind", "namespace", "name")
    KIND_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    kind: str
    namespace: str
    name: str
    def __init__(self, kind: _Optional[str] = ..., namespace: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class StoredObject(_message.Message):
    __slots__ = ("key", "value", "revision")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    key: ObjectKey
    value: bytes
    revision: int
    def __init__(self, key: _Optional[_Union[ObjectKey, _Mapping[str, object]]] = ..., value: _Optional[bytes] = ..., revision: _Optional[int] = ...) -> None: ...

class ApplyRequest(_message.Message):
    __slots__ = ("request_id", "changes", "dry_run")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    changes: _containers.RepeatedCompositeFieldContainer[Change]
    dry_run: bool
    def __init__(self, request_id: _Optional[str] = ..., changes: _Optional[_Iterable[_Union[Change, _Mapping[str, object]]]] = ..., dry_run: bool = ...) -> None: ...

class Change(_message.Message):
    __slots__ = ("put", "delete", "source", "expected_revision")
    PUT_FIELD_NUMBER: _ClassVar[int]
    DELETE_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_REVISION_FIELD_NUMBER: _ClassVar[int]
    put: bytes
    delete: ObjectKey
    source: str
    expected_revision: int
    def __init__(self, put: _Optional[bytes] = ..., delete: _Optional[_Union[ObjectKey, _Mapping[str, object]]] = ..., source: _Optional[str] = ..., expected_revision: _Optional[int] = ...) -> None: ...

class ApplyReply(_message.Message):
    __slots__ = ("revision", "outcomes")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    revision: int
    outcomes: _containers.RepeatedCompositeFieldContainer[Outcome]
    def __init__(self, revision: _Optional[int] = ..., outcomes: _Optional[_Iterable[_Union[Outcome, _Mapping[str, object]]]] = ...) -> None: ...

class Outcome(_message.Message):
    __slots__ = ("key", "action")
    class Action(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        UNCHANGED: _ClassVar[Outcome.Action]
        CREATED: _ClassVar[Outcome.Action]
        UPDATED: _ClassVar[Outcome.Action]
        DELETED: _ClassVar[Outcome.Action]
    UNCHANGED: Outcome.Action
    CREATED: Outcome.Action
    UPDATED: Outcome.Action
    DELETED: Outcome.Action
    KEY_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    key: ObjectKey
    action: Outcome.Action
    def __init__(self, key: _Optional[_Union[ObjectKey, _Mapping[str, object]]] = ..., action: _Optional[_Union[Outcome.Action, str]] = ...) -> None: ...

class GetRequest(_message.Message):
    __slots__ = ("key",)
    KEY_FIELD_NUMBER: _ClassVar[int]
    key: ObjectKey
    def __init__(self, key: _Optional[_Union[ObjectKey, _Mapping[str, object]]] = ...) -> None: ...

class ListRequest(_message.Message):
    __slots__ = ("kind", "namespace")
    KIND_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    kind: str
    namespace: str
    def __init__(self, kind: _Optional[str] = ..., namespace: _Optional[str] = ...) -> None: ...

class ListReply(_message.Message):
    __slots__ = ("objects", "revision")
    OBJECTS_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    objects: _containers.RepeatedCompositeFieldContainer[StoredObject]
    revision: int
    def __init__(self, objects: _Optional[_Iterable[_Union[StoredObject, _Mapping[str, object]]]] = ..., revision: _Optional[int] = ...) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ("after_revision",)
    AFTER_REVISION_FIELD_NUMBER: _ClassVar[int]
    after_revision: int
    def __init__(self, after_revision: _Optional[int] = ...) -> None: ...

class WatchEvent(_message.Message):
    __slots__ = ("revision", "deleted", "key", "value")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    DELETED_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    revision: int
    deleted: bool
    key: str
    value: bytes
    def __init__(self, revision: _Optional[int] = ..., deleted: bool = ..., key: _Optional[str] = ..., value: _Optional[bytes] = ...) -> None: ...

class JoinRequest(_message.Message):
    __slots__ = ("token", "csr", "etcd_csr")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    CSR_FIELD_NUMBER: _ClassVar[int]
    ETCD_CSR_FIELD_NUMBER: _ClassVar[int]
    token: str
    csr: bytes
    etcd_csr: bytes
    def __init__(self, token: _Optional[str] = ..., csr: _Optional[bytes] = ..., etcd_csr: _Optional[bytes] = ...) -> None: ...

class RenewRequest(_message.Message):
    __slots__ = ("csr", "etcd_csr")
    CSR_FIELD_NUMBER: _ClassVar[int]
    ETCD_CSR_FIELD_NUMBER: _ClassVar[int]
    csr: bytes
    etcd_csr: bytes
    def __init__(self, csr: _Optional[bytes] = ..., etcd_csr: _Optional[bytes] = ...) -> None: ...

class IdentityReply(_message.Message):
    __slots__ = ("spiffe_id", "chain", "trust_bundle", "etcd_chain", "etcd_ca", "etcd_endpoints", "expires", "key_prefix", "api_endpoints")
    SPIFFE_ID_FIELD_NUMBER: _ClassVar[int]
    CHAIN_FIELD_NUMBER: _ClassVar[int]
    TRUST_BUNDLE_FIELD_NUMBER: _ClassVar[int]
    ETCD_CHAIN_FIELD_NUMBER: _ClassVar[int]
    ETCD_CA_FIELD_NUMBER: _ClassVar[int]
    ETCD_ENDPOINTS_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_FIELD_NUMBER: _ClassVar[int]
    KEY_PREFIX_FIELD_NUMBER: _ClassVar[int]
    API_ENDPOINTS_FIELD_NUMBER: _ClassVar[int]
    spiffe_id: str
    chain: _containers.RepeatedScalarFieldContainer[bytes]
    trust_bundle: bytes
    etcd_chain: _containers.RepeatedScalarFieldContainer[bytes]
    etcd_ca: bytes
    etcd_endpoints: _containers.RepeatedScalarFieldContainer[str]
    expires: int
    key_prefix: str
    api_endpoints: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, spiffe_id: _Optional[str] = ..., chain: _Optional[_Iterable[bytes]] = ..., trust_bundle: _Optional[bytes] = ..., etcd_chain: _Optional[_Iterable[bytes]] = ..., etcd_ca: _Optional[bytes] = ..., etcd_endpoints: _Optional[_Iterable[str]] = ..., expires: _Optional[int] = ..., key_prefix: _Optional[str] = ..., api_endpoints: _Optional[_Iterable[str]] = ...) -> None: ...

class CreateTokenRequest(_message.Message):
    __slots__ = ("request_id", "namespace", "service", "ttl_seconds")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    TTL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    namespace: str
    service: str
    ttl_seconds: int
    def __init__(self, request_id: _Optional[str] = ..., namespace: _Optional[str] = ..., service: _Optional[str] = ..., ttl_seconds: _Optional[int] = ...) -> None: ...

class CreateTokenReply(_message.Message):
    __slots__ = ("token", "expires", "trust_bundle", "join_endpoints", "api_endpoints", "trust_domain")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_FIELD_NUMBER: _ClassVar[int]
    TRUST_BUNDLE_FIELD_NUMBER: _ClassVar[int]
    JOIN_ENDPOINTS_FIELD_NUMBER: _ClassVar[int]
    API_ENDPOINTS_FIELD_NUMBER: _ClassVar[int]
    TRUST_DOMAIN_FIELD_NUMBER: _ClassVar[int]
    token: str
    expires: int
    trust_bundle: bytes
    join_endpoints: _containers.RepeatedScalarFieldContainer[str]
    api_endpoints: _containers.RepeatedScalarFieldContainer[str]
    trust_domain: str
    def __init__(self, token: _Optional[str] = ..., expires: _Optional[int] = ..., trust_bundle: _Optional[bytes] = ..., join_endpoints: _Optional[_Iterable[str]] = ..., api_endpoints: _Optional[_Iterable[str]] = ..., trust_domain: _Optional[str] = ...) -> None: ...

class RegisterRequest(_message.Message):
    __slots__ = ("instance", "endpoint", "status", "ttl_seconds", "lease_id")
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    TTL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    instance: str
    endpoint: bytes
    status: bytes
    ttl_seconds: int
    lease_id: int
    def __init__(self, instance: _Optional[str] = ..., endpoint: _Optional[bytes] = ..., status: _Optional[bytes] = ..., ttl_seconds: _Optional[int] = ..., lease_id: _Optional[int] = ...) -> None: ...

class RegisterReply(_message.Message):
    __slots__ = ("lease_id", "ttl_seconds", "revision")
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    TTL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    lease_id: int
    ttl_seconds: int
    revision: int
    def __init__(self, lease_id: _Optional[int] = ..., ttl_seconds: _Optional[int] = ..., revision: _Optional[int] = ...) -> None: ...

class DeregisterRequest(_message.Message):
    __slots__ = ("instance", "lease_id")
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    instance: str
    lease_id: int
    def __init__(self, instance: _Optional[str] = ..., lease_id: _Optional[int] = ...) -> None: ...

class DeregisterReply(_message.Message):
    __slots__ = ("revision",)
    REVISION_FIELD_NUMBER: _ClassVar[int]
    revision: int
    def __init__(self, revision: _Optional[int] = ...) -> None: ...

class ReportRequest(_message.Message):
    __slots__ = ("instance", "lease_id", "status")
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    instance: str
    lease_id: int
    status: bytes
    def __init__(self, instance: _Optional[str] = ..., lease_id: _Optional[int] = ..., status: _Optional[bytes] = ...) -> None: ...

class ReportReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListSidecarsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListSidecarsReply(_message.Message):
    __slots__ = ("statuses", "config_revision")
    STATUSES_FIELD_NUMBER: _ClassVar[int]
    CONFIG_REVISION_FIELD_NUMBER: _ClassVar[int]
    statuses: _containers.RepeatedScalarFieldContainer[bytes]
    config_revision: int
    def __init__(self, statuses: _Optional[_Iterable[bytes]] = ..., config_revision: _Optional[int] = ...) -> None: ...

class WaitRequest(_message.Message):
    __slots__ = ("revision",)
    REVISION_FIELD_NUMBER: _ClassVar[int]
    revision: int
    def __init__(self, revision: _Optional[int] = ...) -> None: ...

class WaitProgress(_message.Message):
    __slots__ = ("revision", "total", "acked", "pending", "refusals", "done")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    ACKED_FIELD_NUMBER: _ClassVar[int]
    PENDING_FIELD_NUMBER: _ClassVar[int]
    REFUSALS_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    revision: int
    total: int
    acked: int
    pending: _containers.RepeatedScalarFieldContainer[str]
    refusals: _containers.RepeatedCompositeFieldContainer[Refusal]
    done: bool
    def __init__(self, revision: _Optional[int] = ..., total: _Optional[int] = ..., acked: _Optional[int] = ..., pending: _Optional[_Iterable[str]] = ..., refusals: _Optional[_Iterable[_Union[Refusal, _Mapping[str, object]]]] = ..., done: bool = ...) -> None: ...

class Refusal(_message.Message):
    __slots__ = ("sidecar", "resource", "message")
    SIDECAR_FIELD_NUMBER: _ClassVar[int]
    RESOURCE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    sidecar: str
    resource: str
    message: str
    def __init__(self, sidecar: _Optional[str] = ..., resource: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class ProblemList(_message.Message):
    __slots__ = ("problems",)
    PROBLEMS_FIELD_NUMBER: _ClassVar[int]
    problems: _containers.RepeatedCompositeFieldContainer[ProblemItem]
    def __init__(self, problems: _Optional[_Iterable[_Union[ProblemItem, _Mapping[str, object]]]] = ...) -> None: ...

class ProblemItem(_message.Message):
    __slots__ = ("subject", "path", "message", "remedy")
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    REMEDY_FIELD_NUMBER: _ClassVar[int]
    subject: str
    path: str
    message: str
    remedy: str
    def __init__(self, subject: _Optional[str] = ..., path: _Optional[str] = ..., message: _Optional[str] = ..., remedy: _Optional[str] = ...) -> None: ...
