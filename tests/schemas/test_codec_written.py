"""YAML from people: every problem at once, each with its line, its field and what was expected; no text harms us."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import codec
from schemas.errors import InvalidInput, Problem
from schemas.objects import KINDS, AnyObject, Mesh, Service
from schemas.yaml_text import MAX_DEPTH, MAX_NODES, read_documents
from tests.schemas.values import OBJECTS

SOUND = """\
apiVersion: mesh/v1
kind: Service
metadata: {name: orders, namespace: shop}
spec:
  ports:
  - {name: web, port: 8080, protocol: http}
"""


def problems(text: str) -> tuple[Problem, ...]:
    with pytest.raises(InvalidInput) as caught:
        codec.load_yaml(text, "shop.yaml")
    return caught.value.problems


def only(text: str) -> Problem:
    found = problems(text)
    assert len(found) == 1, found
    return found[0]


@pytest.mark.parametrize("value", OBJECTS, ids=lambda value: type(value).__name__)
def test_what_is_shown_can_be_applied(value: AnyObject) -> None:
    plain = codec.to_builtins(value)
    assert [one.object for one in codec.load_yaml(codec.dump_yaml([plain]), "f")] == [value]
    assert [one.object for one in codec.load_yaml(json.dumps(plain, indent="\t"), "f")] == [value]


def test_several_documents_with_their_places() -> None:
    text = f"# a comment\n---\n---\n{SOUND}---\n{SOUND.replace('orders', 'web')}...\n"
    first, second = codec.load_yaml(text, "shop.yaml")
    assert (first.source, first.object.ref.name) == ("shop.yaml:4", "orders")
    assert (second.source, second.object.ref.name) == ("shop.yaml:11", "web")


@pytest.mark.parametrize("text", ["", "\n# nothing\n", "---\n---\n", "null"])
def test_a_stream_of_nothing(text: str) -> None:
    assert codec.load_yaml(text, "f") == []


def test_syntax_error_has_its_line_and_column() -> None:
    problem = only("apiVersion: mesh/v1\nkind: [Service\nmetadata: x\n")
    assert problem.subject == "shop.yaml:3:9"
    assert problem.message.startswith("not YAML: while parsing a flow sequence")


def test_duplicate_key() -> None:
    problem = only(SOUND + "kind: Mesh\n")
    assert problem.subject == "shop.yaml:7"
    assert problem.message == "the key 'kind' stands twice in one mapping"


def test_unknown_field_suggests_the_nearest() -> None:
    problem = only(SOUND.replace("port: 8080", "port: 8080, targetport: 80"))
    assert problem.subject == "shop.yaml:6: Service 'orders'"
    assert problem.path == "$.spec.ports[0].targetport"
    assert problem.remedy == "did you mean 'targetPort'?"


@pytest.mark.parametrize(
    ("old", "new", "path", "message"),
    [
        ("8080", "0", "$.spec.ports[0].port", "expected a whole number from 1 to 65535, got 0"),
        ("8080", "'8080'", "$.spec.ports[0].port", "expected a whole number from 1 to 65535, got '8080'"),
        ("8080", "null", "$.spec.ports[0].port", "expected a whole number from 1 to 65535, got null"),
        ("protocol: http", "protocol: htp", "$.spec.ports[0].protocol", "expected http or http2 or grpc or tcp"),
        ("name: orders", "name: Orders", "$.metadata.name", "expected a name of 1 to 63 of a-z, 0-9 and '-'"),
        ("name: orders", "name: 7", "$.metadata.name", "expected a name"),
        ("name: orders, ", "", "$.metadata.name", "missing: expected a name"),
        ("namespace: shop", "labels: [a]", "$.metadata.labels", "expected a mapping, got a list of 1"),
        ("namespace: shop", "labels: {a/b: 1.10}", "$.metadata.labels['a/b']", "expected a string of at most 256"),
        ("namespace: shop", f"labels: {{{'a' * 257}: x}}", f"$.metadata.labels.{'a' * 257}", "as a key: expected"),
        (
            "  - {name: web, port: 8080, protocol: http}",
            "    7",
            "$.spec.ports",
            "expected a list of 1 to 64 items, got 7",
        ),
        ("  - {name: web, port: 8080, protocol: http}", "    []", "$.spec.ports", "expected a list of 1 to 64 items"),
        ("  ports:\n  - {name: web, port: 8080, protocol: http}", "  [a]", "$.spec", "expected a mapping with ports"),
        ("apiVersion: mesh/v1", "apiVersion: mesh/v9", "$.apiVersion", "apiVersion is 'mesh/v9'"),
        ("apiVersion: mesh/v1\n", "", "$.apiVersion", "apiVersion is missing"),
        ("kind: Service", "kind: [Service]", "$.kind", "unknown kind ['Service']"),
        ("kind: Service\n", "", "$.kind", "kind is missing"),
    ],
)
def test_a_bad_value_is_told_with_path_and_expectation(old: str, new: str, path: str, message: str) -> None:
    assert old in SOUND
    problem = only(SOUND.replace(old, new))
    assert problem.path == path
    assert problem.message.startswith(message)
    assert "regex" not in str(problem)
    assert "Expected" not in str(problem)


def test_unknown_kind_suggests_the_nearest() -> None:
    assert only(SOUND.replace("Service", "Sevice")).remedy == "did you mean 'Service'?"
    assert only(SOUND.replace("Service", "Teapot")).remedy.startswith("known are: Mesh, Service")


@pytest.mark.parametrize("text", ["- a\n", "7\n", "word\n"])
def test_a_document_that_is_no_mapping(text: str) -> None:
    assert only(text).message == "not a mapping"


def test_all_problems_of_all_documents_at_once() -> None:
    bad = SOUND.replace("name: web, port: 8080", "name: Web, port: 0, prot: 1").replace("orders", "x")
    found = problems(f"{bad}---\n{SOUND}---\n{SOUND.replace('Service', 'Sevice')}---\na: 1\na: 2\n---\n[")
    said = {(problem.subject.split(": ")[0], problem.path) for problem in found}
    assert said == {
        ("shop.yaml:6", "$.spec.ports[0].name"),
        ("shop.yaml:6", "$.spec.ports[0].port"),
        ("shop.yaml:6", "$.spec.ports[0].prot"),
        ("shop.yaml:16", "$.kind"),
        ("shop.yaml:23", ""),
        ("shop.yaml:26:1", ""),
    }


def test_the_same_object_twice() -> None:
    problem = only(f"{SOUND}---\n{SOUND}")
    assert problem.subject == "shop.yaml:8"
    assert "Service shop/orders stands here a second time, first at shop.yaml:1" in problem.message


def test_mesh_is_of_no_namespace() -> None:
    mesh = "apiVersion: mesh/v1\nkind: Mesh\nmetadata: {name: mesh}\nspec: {trustDomain: example.org}\n"
    value = codec.load_yaml(mesh, "f")[0].object
    assert isinstance(value, Mesh)
    assert value.metadata.namespace == "mesh-system"
    problem = only(mesh.replace("name: mesh", "name: mesh, namespace: shop"))
    assert (problem.path, problem.remedy) == ("$.metadata.namespace", "write mesh-system or leave it out")


# -- scalars that YAML 1.1 would bend


@pytest.mark.parametrize("text", ["no", "on", "y", "2024-01-01", "12:30", "010", "0x10", "1_000", "1e3", ".inf", "="])
def test_a_plain_word_stays_a_string(text: str) -> None:
    service = codec.load_yaml(SOUND.replace("namespace: shop", f"labels: {{a: {text}, {text}: b}}"), "f")[0].object
    assert service.metadata.labels == {"a": text, text: "b"}


@given(st.text(st.characters(codec="utf-8"), max_size=40))
def test_any_string_that_we_show_reads_back(text: str) -> None:
    documents, found = read_documents(codec.dump_yaml([{"a": text, "b": [text]}]), "f")
    assert not found
    assert documents[0].value == {"a": text, "b": [text]}


def test_a_number_for_a_string_says_to_quote() -> None:
    assert only(SOUND.replace("namespace: shop", "labels: {version: 1.10}")).remedy == "put it in quotes"


# -- anchors


def test_anchors_and_merge_keys() -> None:
    text = SOUND.replace(
        "  - {name: web, port: 8080, protocol: http}",
        "  - &web {name: web, port: 8080, protocol: http}\n  - {<<: *web, name: alt, port: 81}",
    )
    service = codec.load_yaml(text, "f")[0].object
    assert isinstance(service, Service)
    alt = service.spec.ports[1]
    assert (alt.name, alt.port, alt.protocol) == ("alt", 81, "http")


def test_merge_of_several_takes_the_first_and_own_keys_win() -> None:
    text = "a: &a {x: 1, y: 1}\nb: &b {x: 2, z: 2}\nc: {<<: [*a, *b], y: 3}\n"
    assert read_documents(text, "f")[0][0].value["c"] == {"x": 1, "y": 3, "z": 2}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: &a [*a]", "the alias *a stands inside of what it names"),
        ("&a {b: {c: *a}}", "the alias *a stands inside of what it names"),
        ("a: *b", "the alias *b has no anchor &b before it"),
        ("a: &a x\n---\nb: *a", "the alias *a has no anchor &a before it"),
        ("{<<: 7}", "'<<' takes a mapping"),
        ("? [a]\n: b", "the key of a mapping is not a plain word"),
        ("a: !!python/object/apply:os.system [id]", "is not supported"),
        ("a: !!timestamp x", "is not supported"),
        ("a: !!int x", "is not supported"),
        ("a: \x07", "control characters are not allowed"),
        ("a: \ud800", "not UTF-8 text"),
        ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "nested more than"),
        ("- " * 2000, "nested more than"),
    ],
)
def test_what_yaml_has_and_we_refuse(text: str, said: str) -> None:
    assert any(said in problem.message for problem in problems(text))


@pytest.mark.timeout(20)
def test_deep_nesting_is_refused_and_does_not_crash() -> None:
    assert any("nested more than" in problem.message for problem in problems("[" * 200_000))


def laughs(item: str, join: str) -> str:
    lines = [f"a0: &a0 {item}"]
    lines += [f"a{level}: &a{level} {join.format(','.join([f'*a{level - 1}'] * 9))}" for level in range(1, 10)]
    return "\n".join(lines)


@pytest.mark.timeout(20)
@pytest.mark.parametrize(("item", "join"), [("[lol,lol]", "[{}]"), ("{x: lol}", "{{<<: [{}]}}")])
def test_billion_laughs_is_refused(item: str, join: str) -> None:
    problem = only(laughs(item, join))
    assert str(MAX_NODES) in problem.message
    assert "aliases written out" in problem.message


def test_as_many_values_as_one_object_may_have() -> None:
    documents, found = read_documents("[" + "a," * (MAX_NODES - 1) + "]", "f")
    assert not found
    assert len(documents[0].value) == MAX_NODES - 1
    assert read_documents("[" + "a," * MAX_NODES + "]", "f")[1]


TOKENS = (
    "a|: |- |  |{|}|[|]|,|&x |*x|<<|!!str |'|\"|? |1|\t|#|%|@|metadata: |spec: |kind: Service\n|apiVersion: mesh/v1\n"
)
yaml_like = st.lists(st.sampled_from([*TOKENS.split("|"), "\n", "---\n", "|\n"]), max_size=30).map("".join)


def outcome(text: str) -> tuple[list[codec.Document], tuple[Problem, ...]]:
    try:
        return codec.load_yaml(text, "f"), ()
    except InvalidInput as error:
        return [], error.problems


@given(yaml_like | st.text(st.characters()))
@settings(max_examples=400)
def test_any_text_is_objects_or_invalid_input(text: str) -> None:
    documents, found = outcome(text)
    assert all(problem.subject.startswith("f") for problem in found)
    assert all(type(document.object).__name__ in KINDS for document in documents)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), st.lists, max_leaves=4), st.data())
def test_any_field_of_any_value_is_an_object_or_invalid_input(value: object, data: st.DataObject) -> None:
    """What `checking` finds no fault with, msgspec takes, and the other way round."""
    plain = codec.to_builtins(data.draw(st.sampled_from(OBJECTS)))
    target = plain
    while True:
        key = data.draw(st.sampled_from(list(target) if isinstance(target, dict) else range(len(target))))
        if not isinstance(target[key], dict | list) or not target[key] or data.draw(st.booleans()):
            target[key] = value
            break
        target = target[key]
    _, found = outcome(json.dumps(plain))
    assert all("Expected" not in problem.message for problem in found)


# -- JSON Schema


def test_json_schema_has_every_kind_and_is_for_any_validator() -> None:
    schema = codec.json_schema()
    assert set(KINDS) <= set(schema["$defs"])
    assert r"\Z" not in json.dumps(schema).replace("\\\\", "\\")
    assert schema["$defs"]["Service"]["properties"]["apiVersion"] == {"enum": ["mesh/v1"]}
    assert schema["$defs"]["ServiceSpec"]["additionalProperties"] is False
    assert schema["$defs"]["Metadata"]["properties"]["labels"]["additionalProperties"]["maxLength"] == 256
    assert "kind" in schema["$defs"]["Service"]["required"]


def test_a_limit_knows_callers_by_their_certificates_alone() -> None:
    """What it would not look at, it must not take: the limit would be for more callers than are named."""
    rule = "{from: [{requestPrincipals: ['https://issuer.example/alice']}], limit: {requests: 1, unit: Day}}"
    spec = f"{{targetRefs: [{{name: orders}}], rules: [{rule}]}}"
    [problem] = problems(f"apiVersion: mesh/v1\nkind: RateLimitPolicy\nmetadata: {{name: a}}\nspec: {spec}\n")
    assert "requestPrincipals" in f"{problem.path} {problem.message}"
