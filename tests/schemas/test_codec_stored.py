"""Stored values: canonical, readable by any MessagePack library, and no bytes but the right ones accepted."""

import re
import time
from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import checking, codec, joinfile
from schemas.errors import Corrupt, InvalidInput
from schemas.objects import KINDS, AnyObject, Service
from schemas.objects.authorization import AuthorizationPolicy, Rule, Source
from schemas.records import AnyRecord, Endpoint, SealedKey
from tests.schemas.values import OBJECTS, POLICY, RECORDS, SERVICE, plain_service

VALUES: tuple[AnyObject | AnyRecord, ...] = (*OBJECTS, *RECORDS)


def ids(value: object) -> str:
    return type(value).__name__


def packed(plain: Any) -> bytes:
    """As a foreign writer stores it."""
    data: bytes = msgpack.packb(plain)
    return data


def with_lists(plain: Any) -> Any:
    """What a foreign reader sees of `to_builtins`: lists where Python has tuples."""
    if isinstance(plain, dict):
        return {key: with_lists(value) for key, value in plain.items()}
    return [with_lists(item) for item in plain] if isinstance(plain, tuple | list) else plain


@pytest.mark.parametrize("value", VALUES, ids=ids)
def test_foreign_reader_sees_the_yaml_form(value: AnyObject | AnyRecord) -> None:
    plain = msgpack.unpackb(codec.encode(value))
    assert plain["apiVersion"] == "mesh/v1"
    assert plain["kind"] == type(value).__name__
    assert plain == with_lists(msgspec.to_builtins(value, builtin_types=(bytes,)))


@pytest.mark.parametrize("value", VALUES, ids=ids)
def test_round_trip(value: AnyObject | AnyRecord) -> None:
    assert codec.decode(codec.encode(value), type(value), "k") == value


@pytest.mark.parametrize("value", VALUES, ids=ids)
def test_bytes_are_canonical(value: AnyObject | AnyRecord) -> None:
    """However a foreign writer ordered the fields, what we write of it is the same."""

    def turned(plain: Any) -> Any:
        if isinstance(plain, dict):
            return {key: turned(plain[key]) for key in sorted(plain, reverse=True)}
        return [turned(item) for item in plain] if isinstance(plain, list) else plain

    data = codec.encode(value)
    other_order = packed(turned(msgpack.unpackb(data)))
    assert other_order != data
    assert codec.encode(codec.decode(other_order, type(value), "k")) == data


def test_revision_is_not_stored() -> None:
    at_seven = msgspec.structs.replace(SERVICE, metadata=msgspec.structs.replace(SERVICE.metadata, revision=7))
    assert codec.encode(at_seven) == codec.encode(SERVICE)


# -- what a newer writer stored beside our fields


def stored_service(change: Any) -> bytes:
    plain = msgpack.unpackb(codec.encode(SERVICE))
    change(plain)
    return packed(plain)


def test_unknown_fields_are_read_over_and_survive_a_write() -> None:
    def newer(plain: dict[str, Any]) -> None:
        plain["status"] = {"seen": [1, b"\x00"]}
        plain["metadata"]["owner"] = "b"
        plain["spec"]["ports"][1]["backlog"] = 5

    stored = stored_service(newer)
    assert codec.decode(stored, Service, "k") == SERVICE
    changed = msgspec.structs.replace(SERVICE, spec=msgspec.structs.replace(SERVICE.spec, dependencies=None))
    plain = msgpack.unpackb(codec.encode_over(stored, changed))
    assert plain["status"] == {"seen": [1, b"\x00"]}
    assert plain["metadata"]["owner"] == "b"
    assert plain["spec"]["ports"][1]["backlog"] == 5
    assert "dependencies" not in plain["spec"]


def test_unknown_field_stays_with_its_item() -> None:
    stored = stored_service(lambda plain: plain["spec"]["ports"][1].update(backlog=5))
    first, second = SERVICE.spec.ports
    swapped = msgspec.structs.replace(SERVICE, spec=msgspec.structs.replace(SERVICE.spec, ports=(second, first)))
    ports = msgpack.unpackb(codec.encode_over(stored, swapped))["spec"]["ports"]
    assert [port.get("backlog") for port in ports] == [5, None]
    gone = msgspec.structs.replace(SERVICE, spec=msgspec.structs.replace(SERVICE.spec, ports=(first,)))
    assert codec.encode_over(stored, gone) == codec.encode(gone)


def test_unknown_field_never_turns_an_absent_list_into_an_empty_one() -> None:
    """`from` absent matches every source, `from: []` none: what is gone must stay gone."""
    plain = msgpack.unpackb(codec.encode(POLICY))
    plain["spec"]["rules"][0]["from"][0]["geo"] = "eu"
    spec = POLICY.spec
    anyone = msgspec.structs.replace(
        POLICY,
        spec=msgspec.structs.replace(spec, rules=(msgspec.structs.replace(spec.rules[0], from_=None),)),
    )
    assert codec.encode_over(packed(plain), anyone) == codec.encode(anyone)


def test_unknown_field_in_a_part_that_is_at_its_default_survives() -> None:
    balancing = OBJECTS[2]
    plain = msgpack.unpackb(codec.encode(balancing))
    plain["spec"]["loadBalancer"] = {"newerPart": "30s"}
    stored = packed(plain)
    value = codec.decode_object(stored, "BackendTrafficPolicy", "k")
    assert msgpack.unpackb(codec.encode_over(stored, value)) == plain


@pytest.mark.parametrize("value", OBJECTS, ids=ids)
def test_encode_over_of_a_value_that_we_know_whole_changes_nothing(value: AnyObject) -> None:
    assert codec.encode_over(codec.encode(value), value) == codec.encode(value)


@given(st.binary(max_size=64))
def test_encode_over_any_bytes_gives_a_sound_value_or_corrupt(original: bytes) -> None:
    try:
        data = codec.encode_over(original, SERVICE)
    except Corrupt:
        return
    assert codec.decode(data, Service, "k") == SERVICE


def test_encode_over_keys_that_are_no_strings_is_corrupt() -> None:
    with pytest.raises(Corrupt, match="shop/orders"):
        codec.encode_over(packed({"x": {1: 2, "a": 3}}), SERVICE, "shop/orders")


# -- what is refused


@pytest.mark.parametrize(
    ("plain", "path"),
    [
        (plain_service(apiVersion="mesh/v2"), "$.apiVersion"),
        (plain_service(kind="Mesh"), "$.kind"),
        (plain_service(metadata={"name": "Orders"}), "$.metadata.name"),
        (plain_service(metadata={"name": "orders\n"}), "$.metadata.name"),
        (plain_service(spec={"ports": []}), "$.spec.ports"),
        (plain_service(spec={"ports": [{"name": "w", "port": 65536, "protocol": "http"}]}), "$.spec.ports[0].port"),
        (plain_service(spec={"ports": [{"name": "w", "port": 1, "protocol": "sctp"}]}), "$.spec.ports[0].protocol"),
        (plain_service(metadata={"name": "o", "labels": {"k": 1}}), "$.metadata.labels[...]"),
        (plain_service(metadata={"name": "o", "labels": {"k" * 300: "v"}}), "$.metadata.labels"),
        ({key: value for key, value in plain_service().items() if key != "apiVersion"}, ""),
        ({key: value for key, value in plain_service().items() if key != "kind"}, ""),
        ([1, 2], ""),
        (7, ""),
        (None, ""),
    ],
)
def test_wrong_value_is_corrupt_and_names_key_and_field(plain: Any, path: str) -> None:
    with pytest.raises(Corrupt) as caught:
        codec.decode(packed(plain), Service, "/mesh/v1/data/config/Service/shop/orders")
    assert caught.value.problem.path == path
    assert "data/config/Service/shop/orders" in str(caught.value)
    assert "regex" not in str(caught.value)


def test_pattern_is_said_in_words() -> None:
    with pytest.raises(Corrupt, match="Expected a name of 1 to 63 of a-z"):
        codec.decode(packed(plain_service(metadata={"name": "Orders"})), Service, "k")


def test_every_pattern_has_words() -> None:
    types = (*KINDS.values(), *(type(record) for record in RECORDS))
    descriptions = checking.pattern_descriptions(types)
    assert len(descriptions) >= 5
    assert not [pattern for pattern, words in descriptions.items() if not words]


def test_unknown_kind_is_corrupt() -> None:
    with pytest.raises(Corrupt, match="unknown kind 'Teapot'"):
        codec.decode_object(codec.encode(SERVICE), "Teapot", "k")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "truncated"),
        (b"\xc1", "not MessagePack"),
        (codec.encode(SERVICE)[:-1], "truncated"),
        (codec.encode(SERVICE) + b"\x00", "trailing"),
        (b"\xdf\xff\xff\xff\xff", "truncated"),
        (b"\x81\xa7unknown" + b"\x91" * 100_000 + b"\xc0", "nested too deeply|not MessagePack|missing"),
        (b"\x81\xa4kind\xa1\xff", "utf-8"),
        (b"\x81\xa4kind\xc4\x07Service", "Expected str, got bytes"),
        (b"\xd6\xff\x00\x00\x00\x00", "Expected object, got ext"),
        (b"\x00" * (codec.MAX_VALUE_BYTES + 1), "above the limit"),
    ],
)
def test_bytes_that_are_no_value(data: bytes, said: str) -> None:
    with pytest.raises(Corrupt, match=said):
        codec.decode(data, Service, "k")


msgpack_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.integers(0, 9), inner, max_size=4),
    max_leaves=12,
)


@given(st.binary() | msgpack_values.map(packed))
def test_any_bytes_are_a_value_or_corrupt(data: bytes) -> None:
    for type_ in (Service, Endpoint, SealedKey):
        try:
            value: object = codec.decode(data, type_, "k")
        except Corrupt:
            continue
        assert isinstance(value, type_)


@given(st.data())
@settings(max_examples=200)
def test_a_damaged_value_is_a_value_or_corrupt(data: st.DataObject) -> None:
    value = data.draw(st.sampled_from(VALUES))
    stored = bytearray(codec.encode(value))
    for _ in range(data.draw(st.integers(1, 3))):
        stored[data.draw(st.integers(0, len(stored) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = codec.decode(bytes(stored), type(value), "k")
    except Corrupt:
        return
    assert codec.decode(codec.encode(found), type(value), "k") == found


# -- secrets and join files


def test_secrets_do_not_show() -> None:
    for record in RECORDS:
        assert "do-not-show" not in repr(record)
        assert "ssss" not in repr(record)
    assert "mjt1" not in repr(JOIN)


JOIN = joinfile.JoinFile(
    trust_domain="example.org",
    namespace="shop",
    service="orders",
    token="mjt1.a.b",
    expires=1,
    join_endpoints=("a:1",),
    api_endpoints=("a:2",),
    trust_bundle=b"\x00\xff",
)


def test_join_file_round_trip() -> None:
    data = joinfile.dump(JOIN)
    assert joinfile.load(data, "f") == JOIN
    assert data.endswith(b"}\n")


def test_join_file_of_another_version() -> None:
    with pytest.raises(InvalidInput, match=re.escape("$.apiVersion")):
        joinfile.load(joinfile.dump(JOIN).replace(b"mesh/v1", b"mesh/v2"), "f")


@given(st.binary() | st.text(alphabet='{}[]":,a1').map(str.encode) | st.just(b"[" * 100_000))
def test_join_file_of_any_bytes(data: bytes) -> None:
    with pytest.raises(InvalidInput, match="make a new one"):
        joinfile.load(data, "f")


def test_a_write_over_a_long_list_takes_time_in_proportion_to_it() -> None:
    def policy(first: int, count: int) -> AuthorizationPolicy:
        rules = [Rule(from_=(Source(namespaces=(f"n-{number}",)),)) for number in range(first, first + count)]
        return msgspec.structs.replace(POLICY, spec=msgspec.structs.replace(POLICY.spec, rules=tuple(rules)))

    def seconds(count: int) -> float:
        stored, ours = codec.encode(policy(0, count)), policy(count, count)
        started = time.process_time()
        codec.encode_over(stored, ours)
        return time.process_time() - started

    seconds(1)
    assert min(seconds(1000) for _ in range(3)) < 40 * min(seconds(100) for _ in range(3))
