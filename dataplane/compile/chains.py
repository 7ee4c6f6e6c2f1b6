"""Which filter chain of a listener a new connection comes to.

It is said by the listener's matcher, never in the chains. Envoy changes a matcher in place; a chain that is another one
by a single byte, or gone, is drained with all that is open in it.
"""

from collections.abc import Iterator

from envoy.config.listener.v3 import listener_pb2
from google.protobuf import wrappers_pb2
from google.protobuf.message import Message
from xds.type.matcher.v3 import matcher_pb2

from dataplane.compile.tls import packed


def choose(listener: listener_pb2.Listener, name: str) -> None:
    """The chain `name` takes what comes to no other one."""
    _go_to(listener.filter_chain_matcher.on_no_match, name)


def prefer(listener: listener_pb2.Listener, name: str, *, where: Message, is_: str) -> None:
    """The chain `name` takes connections of which `where`, an input of matchers, says `is_`; all else is as before."""
    before = listener.filter_chain_matcher
    matcher = matcher_pb2.Matcher()
    tree = matcher.matcher_tree
    tree.input.name = where.DESCRIPTOR.name
    tree.input.typed_config.CopyFrom(packed(where))
    _go_to(tree.exact_match_map.map[is_], name)
    if before.HasField("matcher_tree"):
        matcher.on_no_match.matcher.CopyFrom(before)
    else:
        matcher.on_no_match.CopyFrom(before.on_no_match)
    before.CopyFrom(matcher)


def chosen(listener: listener_pb2.Listener) -> set[str]:
    """The chains that new connections may come to; none where the chains themselves say what they match."""
    return set(_chosen(listener.filter_chain_matcher))


def _chosen(matcher: matcher_pb2.Matcher) -> Iterator[str]:
    for on in (*matcher.matcher_tree.exact_match_map.map.values(), matcher.on_no_match):
        if on.HasField("matcher"):
            yield from _chosen(on.matcher)
        elif on.HasField("action"):
            yield on.action.name


def _go_to(on: matcher_pb2.Matcher.OnMatch, name: str) -> None:
    on.action.name = name
    on.action.typed_config.CopyFrom(packed(wrappers_pb2.StringValue(value=name)))
