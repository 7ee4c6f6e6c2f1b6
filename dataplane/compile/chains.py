"""Which filter chain of a listener a new connection comes to.

It is said by the listener's matcher, never in the chains. Envoy changes a matcher in place; a chain that is another one
by a single byte, or gone, is drained with all that is open in it.
"""

from collections.abc import Iterator, Mapping

from envoy.config.listener.v3 import listener_pb2
from envoy.extensions.matching.common_inputs.network.v3 import network_inputs_pb2
from google.protobuf import wrappers_pb2
from google.protobuf.message import Message
from xds.core.v3 import extension_pb2
from xds.type.matcher.v3 import matcher_pb2

from dataplane.compile.tls import packed


def choose(listener: listener_pb2.Listener, name: str) -> None:
    """The chain `name` takes what comes to no other one."""
    _go_to(listener.filter_chain_matcher.on_no_match, name)


def prefer(listener: listener_pb2.Listener, name: str, *, where: Message, is_: str) -> None:
    """The chain `name` takes connections of which `where`, an input of matchers, says `is_`; all else is as before."""
    _ask_first(listener, _by_value(where, {is_: name}))


def choose_by_server_name(listener: listener_pb2.Listener, chains: Mapping[str | None, str]) -> None:
    """By the name that the handshake is for: ``*.example.com`` takes all below it, the longest first, and None takes
    all others. What comes to no chain is closed."""
    if None in chains:
        choose(listener, chains[None])
    where = network_inputs_pb2.ServerNameInput()
    wildcards = {host[1:]: name for host, name in chains.items() if host is not None and host.startswith("*.")}
    if wildcards:
        matcher = matcher_pb2.Matcher()
        for suffix in sorted(wildcards, key=lambda one: (-len(one), one)):
            found = matcher.matcher_list.matchers.add()
            _input(found.predicate.single_predicate.input, where)
            found.predicate.single_predicate.value_match.suffix = suffix
            _go_to(found.on_match, wildcards[suffix])
        _ask_first(listener, matcher)
    exact = {host: name for host, name in chains.items() if host is not None and not host.startswith("*.")}
    if exact:
        _ask_first(listener, _by_value(where, exact))


def server_names(listener: listener_pb2.Listener) -> dict[str, str]:
    """Of the chains that are for one, as said by `choose_by_server_name`."""
    found: dict[str, str] = {}
    matcher = listener.filter_chain_matcher
    while True:
        tree = matcher.matcher_tree
        if tree.input.typed_config.Is(network_inputs_pb2.ServerNameInput.DESCRIPTOR):
            found |= {on.action.name: host for host, on in tree.exact_match_map.map.items()}
        for one in matcher.matcher_list.matchers:
            found[one.on_match.action.name] = f"*{one.predicate.single_predicate.value_match.suffix}"
        if not matcher.on_no_match.HasField("matcher"):
            return found
        matcher = matcher.on_no_match.matcher


def chosen(listener: listener_pb2.Listener) -> set[str]:
    """The chains that new connections may come to; none where the chains themselves say what they match."""
    return set(_chosen(listener.filter_chain_matcher))


def _chosen(matcher: matcher_pb2.Matcher) -> Iterator[str]:
    listed = (one.on_match for one in matcher.matcher_list.matchers)
    for on in (*matcher.matcher_tree.exact_match_map.map.values(), *listed, matcher.on_no_match):
        if on.HasField("matcher"):
            yield from _chosen(on.matcher)
        elif on.HasField("action"):
            yield on.action.name


def _by_value(where: Message, chains: Mapping[str, str]) -> matcher_pb2.Matcher:
    matcher = matcher_pb2.Matcher()
    _input(matcher.matcher_tree.input, where)
    for value, name in chains.items():
        _go_to(matcher.matcher_tree.exact_match_map.map[value], name)
    return matcher


def _ask_first(listener: listener_pb2.Listener, matcher: matcher_pb2.Matcher) -> None:
    """What it does not match goes on as before."""
    before = listener.filter_chain_matcher
    if before.WhichOneof("matcher_type"):
        matcher.on_no_match.matcher.CopyFrom(before)
    elif before.HasField("on_no_match"):
        matcher.on_no_match.CopyFrom(before.on_no_match)
    before.CopyFrom(matcher)


def _input(to: extension_pb2.TypedExtensionConfig, where: Message) -> None:
    to.name = where.DESCRIPTOR.name
    to.typed_config.CopyFrom(packed(where))


def _go_to(on: matcher_pb2.Matcher.OnMatch, name: str) -> None:
    on.action.name = name
    on.action.typed_config.CopyFrom(packed(wrappers_pb2.StringValue(value=name)))
