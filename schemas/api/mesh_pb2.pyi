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
    __slots__ = ("request_id", "changes", "dry_run", "force")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    changes: _containers.RepeatedCompositeFieldContainer[Change]
    dry_run: bool
    force: bool
    def __init__(self, request_id: _Optional[str] = ..., changes: _Optional[_Iterable[_Union[Change, _Mapping[str, object]]]] = ..., dry_run: bool = ..., force: bool = ...) -> None: ...

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
    __slots__ = ("key", "revision")
    KEY_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    key: ObjectKey
    revision: int
    def __init__(self, key: _Optional[_Union[ObjectKey, _Mapping[str, object]]] = ..., revision: _Optional[int] = ...) -> None: ...

class ListRequest(_message.Message):
    __slots__ = ("kind", "namespace", "revision")
    KIND_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    kind: str
    namespace: str
    revision: int
    def __init__(self, kind: _Optional[str] = ..., namespace: _Optional[str] = ..., revision: _Optional[int] = ...) -> None: ...

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

class ChallengeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ChallengeReply(_message.Message):
    __slots__ = ("nonce", "expires", "trust_domain")
    NONCE_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_FIELD_NUMBER: _ClassVar[int]
    TRUST_DOMAIN_FIELD_NUMBER: _ClassVar[int]
    nonce: bytes
    expires: int
    trust_domain: str
    def __init__(self, nonce: _Optional[bytes] = ..., expires: _Optional[int] = ..., trust_domain: _Optional[str] = ...) -> None: ...

class JoinRequest(_message.Message):
    __slots__ = ("token", "x509", "expired", "csr", "etcd_csr", "namespace", "service")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    X509_FIELD_NUMBER: _ClassVar[int]
    EXPIRED_FIELD_NUMBER: _ClassVar[int]
    CSR_FIELD_NUMBER: _ClassVar[int]
    ETCD_CSR_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    token: str
    x509: X509Possession
    expired: ExpiredSvid
    csr: bytes
    etcd_csr: bytes
    namespace: str
    service: str
    def __init__(self, token: _Optional[str] = ..., x509: _Optional[_Union[X509Possession, _Mapping[str, object]]] = ..., expired: _Optional[_Union[ExpiredSvid, _Mapping[str, object]]] = ..., csr: _Optional[bytes] = ..., etcd_csr: _Optional[bytes] = ..., namespace: _Optional[str] = ..., service: _Optional[str] = ...) -> None: ...

class X509Possession(_message.Message):
    __slots__ = ("chain", "nonce", "signature")
    CHAIN_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    chain: _containers.RepeatedScalarFieldContainer[bytes]
    nonce: bytes
    signature: bytes
    def __init__(self, chain: _Optional[_Iterable[bytes]] = ..., nonce: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class ExpiredSvid(_message.Message):
    __slots__ = ("leaf", "nonce", "signature")
    LEAF_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    leaf: bytes
    nonce: bytes
    signature: bytes
    def __init__(self, leaf: _Optional[bytes] = ..., nonce: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class LoginRequest(_message.Message):
    __slots__ = ("token", "csr")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    CSR_FIELD_NUMBER: _ClassVar[int]
    token: str
    csr: bytes
    def __init__(self, token: _Optional[str] = ..., csr: _Optional[bytes] = ...) -> None: ...

class RenewLoginRequest(_message.Message):
    __slots__ = ("csr",)
    CSR_FIELD_NUMBER: _ClassVar[int]
    csr: bytes
    def __init__(self, csr: _Optional[bytes] = ...) -> None: ...

class OperatorReply(_message.Message):
    __slots__ = ("spiffe_id", "chain", "trust_bundle", "expires", "api_endpoints", "operator")
    SPIFFE_ID_FIELD_NUMBER: _ClassVar[int]
    CHAIN_FIELD_NUMBER: _ClassVar[int]
    TRUST_BUNDLE_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_FIELD_NUMBER: _ClassVar[int]
    API_ENDPOINTS_FIELD_NUMBER: _ClassVar[int]
    OPERATOR_FIELD_NUMBER: _ClassVar[int]
    spiffe_id: str
    chain: _containers.RepeatedScalarFieldContainer[bytes]
    trust_bundle: bytes
    expires: int
    api_endpoints: _containers.RepeatedScalarFieldContainer[str]
    operator: OperatorInfo
    def __init__(self, spiffe_id: _Optional[str] = ..., chain: _Optional[_Iterable[bytes]] = ..., trust_bundle: _Optional[bytes] = ..., expires: _Optional[int] = ..., api_endpoints: _Optional[_Iterable[str]] = ..., operator: _Optional[_Union[OperatorInfo, _Mapping[str, object]]] = ...) -> None: ...

class RenewRequest(_message.Message):
    __slots__ = ("csr", "etcd_csr")
    CSR_FIELD_NUMBER: _ClassVar[int]
    ETCD_CSR_FIELD_NUMBER: _ClassVar[int]
    csr: bytes
    etcd_csr: bytes
    def __init__(self, csr: _Optional[bytes] = ..., etcd_csr: _Optional[bytes] = ...) -> None: ...

class RenewBatchRequest(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[RenewRequest]
    def __init__(self, items: _Optional[_Iterable[_Union[RenewRequest, _Mapping[str, object]]]] = ...) -> None: ...

class RenewBatchReply(_message.Message):
    __slots__ = ("common", "items")
    COMMON_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    common: IdentityReply
    items: _containers.RepeatedCompositeFieldContainer[RenewedItem]
    def __init__(self, common: _Optional[_Union[IdentityReply, _Mapping[str, object]]] = ..., items: _Optional[_Iterable[_Union[RenewedItem, _Mapping[str, object]]]] = ...) -> None: ...

class RenewedItem(_message.Message):
    __slots__ = ("chain", "etcd_chain", "expires", "refused")
    CHAIN_FIELD_NUMBER: _ClassVar[int]
    ETCD_CHAIN_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    chain: _containers.RepeatedScalarFieldContainer[bytes]
    etcd_chain: _containers.RepeatedScalarFieldContainer[bytes]
    expires: int
    refused: ProblemItem
    def __init__(self, chain: _Optional[_Iterable[bytes]] = ..., etcd_chain: _Optional[_Iterable[bytes]] = ..., expires: _Optional[int] = ..., refused: _Optional[_Union[ProblemItem, _Mapping[str, object]]] = ...) -> None: ...

class IdentityReply(_message.Message):
    __slots__ = ("spiffe_id", "chain", "trust_bundle", "etcd_chain", "etcd_ca", "etcd_endpoints", "expires", "key_prefix", "api_endpoints", "join_endpoints")
    SPIFFE_ID_FIELD_NUMBER: _ClassVar[int]
    CHAIN_FIELD_NUMBER: _ClassVar[int]
    TRUST_BUNDLE_FIELD_NUMBER: _ClassVar[int]
    ETCD_CHAIN_FIELD_NUMBER: _ClassVar[int]
    ETCD_CA_FIELD_NUMBER: _ClassVar[int]
    ETCD_ENDPOINTS_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_FIELD_NUMBER: _ClassVar[int]
    KEY_PREFIX_FIELD_NUMBER: _ClassVar[int]
    API_ENDPOINTS_FIELD_NUMBER: _ClassVar[int]
    JOIN_ENDPOINTS_FIELD_NUMBER: _ClassVar[int]
    spiffe_id: str
    chain: _containers.RepeatedScalarFieldContainer[bytes]
    trust_bundle: bytes
    etcd_chain: _containers.RepeatedScalarFieldContainer[bytes]
    etcd_ca: bytes
    etcd_endpoints: _containers.RepeatedScalarFieldContainer[str]
    expires: int
    key_prefix: str
    api_endpoints: _containers.RepeatedScalarFieldContainer[str]
    join_endpoints: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, spiffe_id: _Optional[str] = ..., chain: _Optional[_Iterable[bytes]] = ..., trust_bundle: _Optional[bytes] = ..., etcd_chain: _Optional[_Iterable[bytes]] = ..., etcd_ca: _Optional[bytes] = ..., etcd_endpoints: _Optional[_Iterable[str]] = ..., expires: _Optional[int] = ..., key_prefix: _Optional[str] = ..., api_endpoints: _Optional[_Iterable[str]] = ..., join_endpoints: _Optional[_Iterable[str]] = ...) -> None: ...

class IssueX509Request(_message.Message):
    __slots__ = ("csr",)
    CSR_FIELD_NUMBER: _ClassVar[int]
    csr: bytes
    def __init__(self, csr: _Optional[bytes] = ...) -> None: ...

class IssueX509Reply(_message.Message):
    __slots__ = ("spiffe_id", "chain", "trust_bundle", "expires")
    SPIFFE_ID_FIELD_NUMBER: _ClassVar[int]
    CHAIN_FIELD_NUMBER: _ClassVar[int]
    TRUST_BUNDLE_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_FIELD_NUMBER: _ClassVar[int]
    spiffe_id: str
    chain: _containers.RepeatedScalarFieldContainer[bytes]
    trust_bundle: bytes
    expires: int
    def __init__(self, spiffe_id: _Optional[str] = ..., chain: _Optional[_Iterable[bytes]] = ..., trust_bundle: _Optional[bytes] = ..., expires: _Optional[int] = ...) -> None: ...

class IssueJwtRequest(_message.Message):
    __slots__ = ("audience",)
    AUDIENCE_FIELD_NUMBER: _ClassVar[int]
    audience: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, audience: _Optional[_Iterable[str]] = ...) -> None: ...

class IssueJwtReply(_message.Message):
    __slots__ = ("spiffe_id", "token", "expires")
    SPIFFE_ID_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_FIELD_NUMBER: _ClassVar[int]
    spiffe_id: str
    token: str
    expires: int
    def __init__(self, spiffe_id: _Optional[str] = ..., token: _Optional[str] = ..., expires: _Optional[int] = ...) -> None: ...

class CreateTokenRequest(_message.Message):
    __slots__ = ("request_id", "namespace", "service", "ttl_seconds", "uses", "operator", "role", "namespaces")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    TTL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    USES_FIELD_NUMBER: _ClassVar[int]
    OPERATOR_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    NAMESPACES_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    namespace: str
    service: str
    ttl_seconds: int
    uses: int
    operator: str
    role: str
    namespaces: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, request_id: _Optional[str] = ..., namespace: _Optional[str] = ..., service: _Optional[str] = ..., ttl_seconds: _Optional[int] = ..., uses: _Optional[int] = ..., operator: _Optional[str] = ..., role: _Optional[str] = ..., namespaces: _Optional[_Iterable[str]] = ...) -> None: ...

class CreateTokenReply(_message.Message):
    __slots__ = ("token", "expires", "trust_bundle", "join_endpoints", "api_endpoints", "trust_domain", "id", "revision")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_FIELD_NUMBER: _ClassVar[int]
    TRUST_BUNDLE_FIELD_NUMBER: _ClassVar[int]
    JOIN_ENDPOINTS_FIELD_NUMBER: _ClassVar[int]
    API_ENDPOINTS_FIELD_NUMBER: _ClassVar[int]
    TRUST_DOMAIN_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    token: str
    expires: int
    trust_bundle: bytes
    join_endpoints: _containers.RepeatedScalarFieldContainer[str]
    api_endpoints: _containers.RepeatedScalarFieldContainer[str]
    trust_domain: str
    id: str
    revision: int
    def __init__(self, token: _Optional[str] = ..., expires: _Optional[int] = ..., trust_bundle: _Optional[bytes] = ..., join_endpoints: _Optional[_Iterable[str]] = ..., api_endpoints: _Optional[_Iterable[str]] = ..., trust_domain: _Optional[str] = ..., id: _Optional[str] = ..., revision: _Optional[int] = ...) -> None: ...

class ListTokensRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListTokensReply(_message.Message):
    __slots__ = ("tokens", "revision")
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    tokens: _containers.RepeatedCompositeFieldContainer[TokenInfo]
    revision: int
    def __init__(self, tokens: _Optional[_Iterable[_Union[TokenInfo, _Mapping[str, object]]]] = ..., revision: _Optional[int] = ...) -> None: ...

class TokenInfo(_message.Message):
    __slots__ = ("id", "bound_to", "uses", "uses_left", "expires", "created", "created_by", "used", "revoked", "revoked_by")
    ID_FIELD_NUMBER: _ClassVar[int]
    BOUND_TO_FIELD_NUMBER: _ClassVar[int]
    USES_FIELD_NUMBER: _ClassVar[int]
    USES_LEFT_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    CREATED_BY_FIELD_NUMBER: _ClassVar[int]
    USED_FIELD_NUMBER: _ClassVar[int]
    REVOKED_FIELD_NUMBER: _ClassVar[int]
    REVOKED_BY_FIELD_NUMBER: _ClassVar[int]
    id: str
    bound_to: str
    uses: int
    uses_left: int
    expires: int
    created: int
    created_by: str
    used: _containers.RepeatedCompositeFieldContainer[TokenUse]
    revoked: int
    revoked_by: str
    def __init__(self, id: _Optional[str] = ..., bound_to: _Optional[str] = ..., uses: _Optional[int] = ..., uses_left: _Optional[int] = ..., expires: _Optional[int] = ..., created: _Optional[int] = ..., created_by: _Optional[str] = ..., used: _Optional[_Iterable[_Union[TokenUse, _Mapping[str, object]]]] = ..., revoked: _Optional[int] = ..., revoked_by: _Optional[str] = ...) -> None: ...

class TokenUse(_message.Message):
    __slots__ = ("at", "by", "identity")
    AT_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    at: int
    by: str
    identity: str
    def __init__(self, at: _Optional[int] = ..., by: _Optional[str] = ..., identity: _Optional[str] = ...) -> None: ...

class RevokeTokenRequest(_message.Message):
    __slots__ = ("request_id", "id")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    id: str
    def __init__(self, request_id: _Optional[str] = ..., id: _Optional[str] = ...) -> None: ...

class RevokeTokenReply(_message.Message):
    __slots__ = ("revision",)
    REVISION_FIELD_NUMBER: _ClassVar[int]
    revision: int
    def __init__(self, revision: _Optional[int] = ...) -> None: ...

class ListRevocationsRequest(_message.Message):
    __slots__ = ("revision",)
    REVISION_FIELD_NUMBER: _ClassVar[int]
    revision: int
    def __init__(self, revision: _Optional[int] = ...) -> None: ...

class ListRevocationsReply(_message.Message):
    __slots__ = ("revocations", "revision")
    REVOCATIONS_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    revocations: _containers.RepeatedScalarFieldContainer[bytes]
    revision: int
    def __init__(self, revocations: _Optional[_Iterable[bytes]] = ..., revision: _Optional[int] = ...) -> None: ...

class RevokeIdentityRequest(_message.Message):
    __slots__ = ("request_id", "namespace", "service", "reason")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    namespace: str
    service: str
    reason: str
    def __init__(self, request_id: _Optional[str] = ..., namespace: _Optional[str] = ..., service: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class RestoreIdentityRequest(_message.Message):
    __slots__ = ("request_id", "namespace", "service", "reason")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    namespace: str
    service: str
    reason: str
    def __init__(self, request_id: _Optional[str] = ..., namespace: _Optional[str] = ..., service: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class RevocationReply(_message.Message):
    __slots__ = ("revision", "revocation")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    REVOCATION_FIELD_NUMBER: _ClassVar[int]
    revision: int
    revocation: bytes
    def __init__(self, revision: _Optional[int] = ..., revocation: _Optional[bytes] = ...) -> None: ...

class EtcdListRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class EtcdListReply(_message.Message):
    __slots__ = ("crl", "identities", "next_update")
    CRL_FIELD_NUMBER: _ClassVar[int]
    IDENTITIES_FIELD_NUMBER: _ClassVar[int]
    NEXT_UPDATE_FIELD_NUMBER: _ClassVar[int]
    crl: bytes
    identities: int
    next_update: int
    def __init__(self, crl: _Optional[bytes] = ..., identities: _Optional[int] = ..., next_update: _Optional[int] = ...) -> None: ...

class OperatorInfo(_message.Message):
    __slots__ = ("name", "role", "namespaces", "since", "granted_by", "revoked", "revoked_by")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    NAMESPACES_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    GRANTED_BY_FIELD_NUMBER: _ClassVar[int]
    REVOKED_FIELD_NUMBER: _ClassVar[int]
    REVOKED_BY_FIELD_NUMBER: _ClassVar[int]
    name: str
    role: str
    namespaces: _containers.RepeatedScalarFieldContainer[str]
    since: int
    granted_by: str
    revoked: int
    revoked_by: str
    def __init__(self, name: _Optional[str] = ..., role: _Optional[str] = ..., namespaces: _Optional[_Iterable[str]] = ..., since: _Optional[int] = ..., granted_by: _Optional[str] = ..., revoked: _Optional[int] = ..., revoked_by: _Optional[str] = ...) -> None: ...

class ListOperatorsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListOperatorsReply(_message.Message):
    __slots__ = ("operators", "revision")
    OPERATORS_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    operators: _containers.RepeatedCompositeFieldContainer[OperatorInfo]
    revision: int
    def __init__(self, operators: _Optional[_Iterable[_Union[OperatorInfo, _Mapping[str, object]]]] = ..., revision: _Optional[int] = ...) -> None: ...

class GrantOperatorRequest(_message.Message):
    __slots__ = ("request_id", "name", "role", "namespaces")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    NAMESPACES_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    name: str
    role: str
    namespaces: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, request_id: _Optional[str] = ..., name: _Optional[str] = ..., role: _Optional[str] = ..., namespaces: _Optional[_Iterable[str]] = ...) -> None: ...

class GrantOperatorReply(_message.Message):
    __slots__ = ("revision", "operator")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    OPERATOR_FIELD_NUMBER: _ClassVar[int]
    revision: int
    operator: OperatorInfo
    def __init__(self, revision: _Optional[int] = ..., operator: _Optional[_Union[OperatorInfo, _Mapping[str, object]]] = ...) -> None: ...

class RevokeOperatorRequest(_message.Message):
    __slots__ = ("request_id", "name")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    name: str
    def __init__(self, request_id: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class RevokeOperatorReply(_message.Message):
    __slots__ = ("revision",)
    REVISION_FIELD_NUMBER: _ClassVar[int]
    revision: int
    def __init__(self, revision: _Optional[int] = ...) -> None: ...

class ListAttestorsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListAttestorsReply(_message.Message):
    __slots__ = ("host_authorities", "revision")
    HOST_AUTHORITIES_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    host_authorities: _containers.RepeatedScalarFieldContainer[bytes]
    revision: int
    def __init__(self, host_authorities: _Optional[_Iterable[bytes]] = ..., revision: _Optional[int] = ...) -> None: ...

class PutAttestorRequest(_message.Message):
    __slots__ = ("request_id", "name", "x509_authorities", "rules")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    X509_AUTHORITIES_FIELD_NUMBER: _ClassVar[int]
    RULES_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    name: str
    x509_authorities: _containers.RepeatedScalarFieldContainer[bytes]
    rules: _containers.RepeatedCompositeFieldContainer[HostRule]
    def __init__(self, request_id: _Optional[str] = ..., name: _Optional[str] = ..., x509_authorities: _Optional[_Iterable[bytes]] = ..., rules: _Optional[_Iterable[_Union[HostRule, _Mapping[str, object]]]] = ...) -> None: ...

class HostRule(_message.Message):
    __slots__ = ("match", "selector")
    MATCH_FIELD_NUMBER: _ClassVar[int]
    SELECTOR_FIELD_NUMBER: _ClassVar[int]
    match: str
    selector: str
    def __init__(self, match: _Optional[str] = ..., selector: _Optional[str] = ...) -> None: ...

class PutAttestorReply(_message.Message):
    __slots__ = ("revision",)
    REVISION_FIELD_NUMBER: _ClassVar[int]
    revision: int
    def __init__(self, revision: _Optional[int] = ...) -> None: ...

class DeleteAttestorRequest(_message.Message):
    __slots__ = ("request_id", "name")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    name: str
    def __init__(self, request_id: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class DeleteAttestorReply(_message.Message):
    __slots__ = ("revision",)
    REVISION_FIELD_NUMBER: _ClassVar[int]
    revision: int
    def __init__(self, revision: _Optional[int] = ...) -> None: ...

class WhereRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WhereReply(_message.Message):
    __slots__ = ("trust_bundle", "join_endpoints", "api_endpoints", "trust_domain")
    TRUST_BUNDLE_FIELD_NUMBER: _ClassVar[int]
    JOIN_ENDPOINTS_FIELD_NUMBER: _ClassVar[int]
    API_ENDPOINTS_FIELD_NUMBER: _ClassVar[int]
    TRUST_DOMAIN_FIELD_NUMBER: _ClassVar[int]
    trust_bundle: bytes
    join_endpoints: _containers.RepeatedScalarFieldContainer[str]
    api_endpoints: _containers.RepeatedScalarFieldContainer[str]
    trust_domain: str
    def __init__(self, trust_bundle: _Optional[bytes] = ..., join_endpoints: _Optional[_Iterable[str]] = ..., api_endpoints: _Optional[_Iterable[str]] = ..., trust_domain: _Optional[str] = ...) -> None: ...

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
    __slots__ = ("lease_id", "ttl_seconds", "revision", "liveness_lease_id")
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    TTL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    LIVENESS_LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    lease_id: int
    ttl_seconds: int
    revision: int
    liveness_lease_id: int
    def __init__(self, lease_id: _Optional[int] = ..., ttl_seconds: _Optional[int] = ..., revision: _Optional[int] = ..., liveness_lease_id: _Optional[int] = ...) -> None: ...

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
    __slots__ = ("statuses", "config_revision", "alarms")
    STATUSES_FIELD_NUMBER: _ClassVar[int]
    CONFIG_REVISION_FIELD_NUMBER: _ClassVar[int]
    ALARMS_FIELD_NUMBER: _ClassVar[int]
    statuses: _containers.RepeatedScalarFieldContainer[bytes]
    config_revision: int
    alarms: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, statuses: _Optional[_Iterable[bytes]] = ..., config_revision: _Optional[int] = ..., alarms: _Optional[_Iterable[str]] = ...) -> None: ...

class WaitRequest(_message.Message):
    __slots__ = ("revision",)
    REVISION_FIELD_NUMBER: _ClassVar[int]
    revision: int
    def __init__(self, revision: _Optional[int] = ...) -> None: ...

class WaitProgress(_message.Message):
    __slots__ = ("revision", "total", "acked", "pending", "refusals", "done", "revoked", "open_bound_ms", "passed_bound_ms", "uncut", "bound_unknown")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    ACKED_FIELD_NUMBER: _ClassVar[int]
    PENDING_FIELD_NUMBER: _ClassVar[int]
    REFUSALS_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    REVOKED_FIELD_NUMBER: _ClassVar[int]
    OPEN_BOUND_MS_FIELD_NUMBER: _ClassVar[int]
    PASSED_BOUND_MS_FIELD_NUMBER: _ClassVar[int]
    UNCUT_FIELD_NUMBER: _ClassVar[int]
    BOUND_UNKNOWN_FIELD_NUMBER: _ClassVar[int]
    revision: int
    total: int
    acked: int
    pending: _containers.RepeatedScalarFieldContainer[str]
    refusals: _containers.RepeatedCompositeFieldContainer[Refusal]
    done: bool
    revoked: _containers.RepeatedScalarFieldContainer[str]
    open_bound_ms: int
    passed_bound_ms: int
    uncut: _containers.RepeatedCompositeFieldContainer[Uncut]
    bound_unknown: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, revision: _Optional[int] = ..., total: _Optional[int] = ..., acked: _Optional[int] = ..., pending: _Optional[_Iterable[str]] = ..., refusals: _Optional[_Iterable[_Union[Refusal, _Mapping[str, object]]]] = ..., done: bool = ..., revoked: _Optional[_Iterable[str]] = ..., open_bound_ms: _Optional[int] = ..., passed_bound_ms: _Optional[int] = ..., uncut: _Optional[_Iterable[_Union[Uncut, _Mapping[str, object]]]] = ..., bound_unknown: _Optional[_Iterable[str]] = ...) -> None: ...

class Uncut(_message.Message):
    __slots__ = ("sidecar", "why")
    SIDECAR_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    sidecar: str
    why: str
    def __init__(self, sidecar: _Optional[str] = ..., why: _Optional[str] = ...) -> None: ...

class Refusal(_message.Message):
    __slots__ = ("sidecar", "resource", "message")
    SIDECAR_FIELD_NUMBER: _ClassVar[int]
    RESOURCE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    sidecar: str
    resource: str
    message: str
    def __init__(self, sidecar: _Optional[str] = ..., resource: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class SetLogLevelRequest(_message.Message):
    __slots__ = ("request_id", "namespace", "service", "instance", "level", "components", "seconds")
    class ComponentsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    COMPONENTS_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    namespace: str
    service: str
    instance: str
    level: str
    components: _containers.ScalarMap[str, str]
    seconds: int
    def __init__(self, request_id: _Optional[str] = ..., namespace: _Optional[str] = ..., service: _Optional[str] = ..., instance: _Optional[str] = ..., level: _Optional[str] = ..., components: _Optional[_Mapping[str, str]] = ..., seconds: _Optional[int] = ...) -> None: ...

class SetLogLevelReply(_message.Message):
    __slots__ = ("revision", "until")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    UNTIL_FIELD_NUMBER: _ClassVar[int]
    revision: int
    until: int
    def __init__(self, revision: _Optional[int] = ..., until: _Optional[int] = ...) -> None: ...

class AskRequest(_message.Message):
    __slots__ = ("about", "request_id", "services")
    ABOUT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    SERVICES_FIELD_NUMBER: _ClassVar[int]
    about: str
    request_id: str
    services: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, about: _Optional[str] = ..., request_id: _Optional[str] = ..., services: _Optional[_Iterable[str]] = ...) -> None: ...

class AskReply(_message.Message):
    __slots__ = ("answers", "silent")
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    SILENT_FIELD_NUMBER: _ClassVar[int]
    answers: _containers.RepeatedScalarFieldContainer[bytes]
    silent: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, answers: _Optional[_Iterable[bytes]] = ..., silent: _Optional[_Iterable[str]] = ...) -> None: ...

class AnswerRequest(_message.Message):
    __slots__ = ("instance", "question", "answer")
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    QUESTION_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    instance: str
    question: str
    answer: bytes
    def __init__(self, instance: _Optional[str] = ..., question: _Optional[str] = ..., answer: _Optional[bytes] = ...) -> None: ...

class AnswerReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

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

class AuthorityStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class AuthorityStatus(_message.Message):
    __slots__ = ("trust_domain", "bundle_sequence", "keys", "replicas", "rotation", "due", "svid_ttl_seconds")
    TRUST_DOMAIN_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    ROTATION_FIELD_NUMBER: _ClassVar[int]
    DUE_FIELD_NUMBER: _ClassVar[int]
    SVID_TTL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    trust_domain: str
    bundle_sequence: int
    keys: _containers.RepeatedCompositeFieldContainer[CaKey]
    replicas: _containers.RepeatedCompositeFieldContainer[CaReplica]
    rotation: RotationProgress
    due: str
    svid_ttl_seconds: int
    def __init__(self, trust_domain: _Optional[str] = ..., bundle_sequence: _Optional[int] = ..., keys: _Optional[_Iterable[_Union[CaKey, _Mapping[str, object]]]] = ..., replicas: _Optional[_Iterable[_Union[CaReplica, _Mapping[str, object]]]] = ..., rotation: _Optional[_Union[RotationProgress, _Mapping[str, object]]] = ..., due: _Optional[str] = ..., svid_ttl_seconds: _Optional[int] = ...) -> None: ...

class CaKey(_message.Message):
    __slots__ = ("id", "role", "state", "since", "not_before", "not_after", "external", "signed_by", "kek_id", "presented_by", "forced")
    ID_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    NOT_BEFORE_FIELD_NUMBER: _ClassVar[int]
    NOT_AFTER_FIELD_NUMBER: _ClassVar[int]
    EXTERNAL_FIELD_NUMBER: _ClassVar[int]
    SIGNED_BY_FIELD_NUMBER: _ClassVar[int]
    KEK_ID_FIELD_NUMBER: _ClassVar[int]
    PRESENTED_BY_FIELD_NUMBER: _ClassVar[int]
    FORCED_FIELD_NUMBER: _ClassVar[int]
    id: str
    role: str
    state: str
    since: int
    not_before: int
    not_after: int
    external: bool
    signed_by: str
    kek_id: str
    presented_by: int
    forced: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, id: _Optional[str] = ..., role: _Optional[str] = ..., state: _Optional[str] = ..., since: _Optional[int] = ..., not_before: _Optional[int] = ..., not_after: _Optional[int] = ..., external: bool = ..., signed_by: _Optional[str] = ..., kek_id: _Optional[str] = ..., presented_by: _Optional[int] = ..., forced: _Optional[_Iterable[str]] = ...) -> None: ...

class CaReplica(_message.Message):
    __slots__ = ("name", "seen", "trust_sequence", "issues_with", "svid_expires", "kek_ids", "files")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SEEN_FIELD_NUMBER: _ClassVar[int]
    TRUST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    ISSUES_WITH_FIELD_NUMBER: _ClassVar[int]
    SVID_EXPIRES_FIELD_NUMBER: _ClassVar[int]
    KEK_IDS_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    name: str
    seen: int
    trust_sequence: int
    issues_with: str
    svid_expires: int
    kek_ids: _containers.RepeatedScalarFieldContainer[str]
    files: _containers.RepeatedCompositeFieldContainer[CertificateFile]
    def __init__(self, name: _Optional[str] = ..., seen: _Optional[int] = ..., trust_sequence: _Optional[int] = ..., issues_with: _Optional[str] = ..., svid_expires: _Optional[int] = ..., kek_ids: _Optional[_Iterable[str]] = ..., files: _Optional[_Iterable[_Union[CertificateFile, _Mapping[str, object]]]] = ...) -> None: ...

class CertificateFile(_message.Message):
    __slots__ = ("path", "not_before", "not_after")
    PATH_FIELD_NUMBER: _ClassVar[int]
    NOT_BEFORE_FIELD_NUMBER: _ClassVar[int]
    NOT_AFTER_FIELD_NUMBER: _ClassVar[int]
    path: str
    not_before: int
    not_after: int
    def __init__(self, path: _Optional[str] = ..., not_before: _Optional[int] = ..., not_after: _Optional[int] = ...) -> None: ...

class CaHold(_message.Message):
    __slots__ = ("who", "why", "until")
    WHO_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    UNTIL_FIELD_NUMBER: _ClassVar[int]
    who: str
    why: str
    until: int
    def __init__(self, who: _Optional[str] = ..., why: _Optional[str] = ..., until: _Optional[int] = ...) -> None: ...

class FollowRotationRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RotationProgress(_message.Message):
    __slots__ = ("id", "what", "by", "started", "force", "next", "holds", "sidecars", "done")
    ID_FIELD_NUMBER: _ClassVar[int]
    WHAT_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    STARTED_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    HOLDS_FIELD_NUMBER: _ClassVar[int]
    SIDECARS_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    id: str
    what: str
    by: str
    started: int
    force: bool
    next: str
    holds: _containers.RepeatedCompositeFieldContainer[CaHold]
    sidecars: int
    done: bool
    def __init__(self, id: _Optional[str] = ..., what: _Optional[str] = ..., by: _Optional[str] = ..., started: _Optional[int] = ..., force: bool = ..., next: _Optional[str] = ..., holds: _Optional[_Iterable[_Union[CaHold, _Mapping[str, object]]]] = ..., sidecars: _Optional[int] = ..., done: bool = ...) -> None: ...

class RotateRequest(_message.Message):
    __slots__ = ("request_id", "role", "force", "reason")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    role: str
    force: bool
    reason: str
    def __init__(self, request_id: _Optional[str] = ..., role: _Optional[str] = ..., force: bool = ..., reason: _Optional[str] = ...) -> None: ...

class CaStepRequest(_message.Message):
    __slots__ = ("request_id", "role", "key", "force")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    role: str
    key: str
    force: bool
    def __init__(self, request_id: _Optional[str] = ..., role: _Optional[str] = ..., key: _Optional[str] = ..., force: bool = ...) -> None: ...

class CaStepReply(_message.Message):
    __slots__ = ("revision", "keys", "passed")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    PASSED_FIELD_NUMBER: _ClassVar[int]
    revision: int
    keys: _containers.RepeatedScalarFieldContainer[str]
    passed: _containers.RepeatedCompositeFieldContainer[CaHold]
    def __init__(self, revision: _Optional[int] = ..., keys: _Optional[_Iterable[str]] = ..., passed: _Optional[_Iterable[_Union[CaHold, _Mapping[str, object]]]] = ...) -> None: ...

class CaRequestReply(_message.Message):
    __slots__ = ("revision", "key", "csr")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    CSR_FIELD_NUMBER: _ClassVar[int]
    revision: int
    key: str
    csr: bytes
    def __init__(self, revision: _Optional[int] = ..., key: _Optional[str] = ..., csr: _Optional[bytes] = ...) -> None: ...

class InstallRequest(_message.Message):
    __slots__ = ("request_id", "chain")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    CHAIN_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    chain: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, request_id: _Optional[str] = ..., chain: _Optional[_Iterable[bytes]] = ...) -> None: ...

class ResealRequest(_message.Message):
    __slots__ = ("request_id", "kek_id", "force")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    KEK_ID_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    kek_id: str
    force: bool
    def __init__(self, request_id: _Optional[str] = ..., kek_id: _Optional[str] = ..., force: bool = ...) -> None: ...

class FederationStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class FederationStatusReply(_message.Message):
    __slots__ = ("trust_domain", "bundle_sequence", "domains")
    TRUST_DOMAIN_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    DOMAINS_FIELD_NUMBER: _ClassVar[int]
    trust_domain: str
    bundle_sequence: int
    domains: _containers.RepeatedCompositeFieldContainer[FederatedDomain]
    def __init__(self, trust_domain: _Optional[str] = ..., bundle_sequence: _Optional[int] = ..., domains: _Optional[_Iterable[_Union[FederatedDomain, _Mapping[str, object]]]] = ...) -> None: ...

class FederatedDomain(_message.Message):
    __slots__ = ("trust_domain", "objects", "url", "profile", "has_bundle", "sequence", "x509_authorities", "jwt_authorities", "refresh_hint_seconds", "tried", "fetched", "next", "problem", "by")
    TRUST_DOMAIN_FIELD_NUMBER: _ClassVar[int]
    OBJECTS_FIELD_NUMBER: _ClassVar[int]
    URL_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    HAS_BUNDLE_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    X509_AUTHORITIES_FIELD_NUMBER: _ClassVar[int]
    JWT_AUTHORITIES_FIELD_NUMBER: _ClassVar[int]
    REFRESH_HINT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    TRIED_FIELD_NUMBER: _ClassVar[int]
    FETCHED_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    trust_domain: str
    objects: _containers.RepeatedScalarFieldContainer[str]
    url: str
    profile: str
    has_bundle: bool
    sequence: int
    x509_authorities: int
    jwt_authorities: int
    refresh_hint_seconds: int
    tried: int
    fetched: int
    next: int
    problem: str
    by: str
    def __init__(self, trust_domain: _Optional[str] = ..., objects: _Optional[_Iterable[str]] = ..., url: _Optional[str] = ..., profile: _Optional[str] = ..., has_bundle: bool = ..., sequence: _Optional[int] = ..., x509_authorities: _Optional[int] = ..., jwt_authorities: _Optional[int] = ..., refresh_hint_seconds: _Optional[int] = ..., tried: _Optional[int] = ..., fetched: _Optional[int] = ..., next: _Optional[int] = ..., problem: _Optional[str] = ..., by: _Optional[str] = ...) -> None: ...

class FetchBundleRequest(_message.Message):
    __slots__ = ("trust_domain",)
    TRUST_DOMAIN_FIELD_NUMBER: _ClassVar[int]
    trust_domain: str
    def __init__(self, trust_domain: _Optional[str] = ...) -> None: ...

class BundleRequest(_message.Message):
    __slots__ = ("trust_domain",)
    TRUST_DOMAIN_FIELD_NUMBER: _ClassVar[int]
    trust_domain: str
    def __init__(self, trust_domain: _Optional[str] = ...) -> None: ...

class BundleReply(_message.Message):
    __slots__ = ("trust_domain", "sequence", "jwks")
    TRUST_DOMAIN_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    JWKS_FIELD_NUMBER: _ClassVar[int]
    trust_domain: str
    sequence: int
    jwks: bytes
    def __init__(self, trust_domain: _Optional[str] = ..., sequence: _Optional[int] = ..., jwks: _Optional[bytes] = ...) -> None: ...

class KeySetsRequest(_message.Message):
    __slots__ = ("namespace", "with_keys")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    WITH_KEYS_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    with_keys: bool
    def __init__(self, namespace: _Optional[str] = ..., with_keys: bool = ...) -> None: ...

class FetchKeySetsRequest(_message.Message):
    __slots__ = ("uri",)
    URI_FIELD_NUMBER: _ClassVar[int]
    uri: str
    def __init__(self, uri: _Optional[str] = ...) -> None: ...

class KeySetsReply(_message.Message):
    __slots__ = ("key_sets",)
    KEY_SETS_FIELD_NUMBER: _ClassVar[int]
    key_sets: _containers.RepeatedCompositeFieldContainer[KeySet]
    def __init__(self, key_sets: _Optional[_Iterable[_Union[KeySet, _Mapping[str, object]]]] = ...) -> None: ...

class KeySet(_message.Message):
    __slots__ = ("uri", "ca_sha256", "objects", "keys", "since", "tried", "fetched", "next", "failures", "problem", "by", "jwks")
    URI_FIELD_NUMBER: _ClassVar[int]
    CA_SHA256_FIELD_NUMBER: _ClassVar[int]
    OBJECTS_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    TRIED_FIELD_NUMBER: _ClassVar[int]
    FETCHED_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    JWKS_FIELD_NUMBER: _ClassVar[int]
    uri: str
    ca_sha256: bytes
    objects: _containers.RepeatedScalarFieldContainer[str]
    keys: int
    since: int
    tried: int
    fetched: int
    next: int
    failures: int
    problem: str
    by: str
    jwks: str
    def __init__(self, uri: _Optional[str] = ..., ca_sha256: _Optional[bytes] = ..., objects: _Optional[_Iterable[str]] = ..., keys: _Optional[int] = ..., since: _Optional[int] = ..., tried: _Optional[int] = ..., fetched: _Optional[int] = ..., next: _Optional[int] = ..., failures: _Optional[int] = ..., problem: _Optional[str] = ..., by: _Optional[str] = ..., jwks: _Optional[str] = ...) -> None: ...
