"""A peer is let in with exactly one identity (X509-SVID 5.2): whoever has two has the doubt against it.

Envoy's SPIFFE validator goes by the first URI name of a certificate: it chooses the bundle by that, and looks at no
other (https://github.com/envoyproxy/envoy/blob/v1.40.0/source/extensions/transport_sockets/tls/cert_validator/spiffe).
Its rules match if any URI name does, or any DNS name (`AuthenticatedMatcher`), and a DNS name may hold any text. So an
authority of a federated trust domain could put a name of ours behind one of its own, and its holder would be let in by
the rules for ours. The other way round, for servers, callers believe each by the bundle of its trust domain alone:
`tls.upstream`.
"""

from functools import lru_cache

from envoy.config.listener.v3 import listener_components_pb2
from envoy.config.rbac.v3 import rbac_pb2
from envoy.extensions.filters.network.rbac.v3 import rbac_pb2 as network_rbac_pb2
from envoy.extensions.matching.common_inputs.ssl.v3 import ssl_inputs_pb2
from xds.type.matcher.v3 import matcher_pb2

from dataplane.compile.tls import packed

FILTER = "mesh.one_identity"
# Envoy joins the names with commas, which no SPIFFE ID has.
_ONE_NAME = "[^,]+"
# What stands in identities, and in no name of a host; behind a line's end, too.
_NO_HOST = "(?s).*[:/].*"


@lru_cache(maxsize=64)  # one a listener
def one_identity(name: str) -> listener_components_pb2.Filter:
    """A network filter, the first of its chain: it closes connections of other peers at their first byte. `name`: of
    the listener, for statistics."""
    rules = network_rbac_pb2.RBAC(stat_prefix=f"{name}|one_identity|")
    known = rules.matcher.matcher_list.matchers.add()
    one_uri, no_other = (known.predicate.and_matcher.predicate.add() for _ in range(2))
    _matches(one_uri, "uri_names", ssl_inputs_pb2.UriSanInput(), _ONE_NAME)
    _matches(no_other.not_matcher, "dns_names", ssl_inputs_pb2.DnsSanInput(), _NO_HOST)
    _act(known.on_match, "one identity", rbac_pb2.RBAC.ALLOW)
    _act(rules.matcher.on_no_match, "none or several", rbac_pb2.RBAC.DENY)
    return listener_components_pb2.Filter(name=FILTER, typed_config=packed(rules))


def _matches(predicate: matcher_pb2.Matcher.MatcherList.Predicate, name: str, what: object, expression: str) -> None:
    """The whole text, as RE2 does it here."""
    one = predicate.single_predicate
    one.input.name = name
    one.input.typed_config.CopyFrom(packed(what))
    one.value_match.safe_regex.google_re2.SetInParent()
    one.value_match.safe_regex.regex = expression


def _act(on: matcher_pb2.Matcher.OnMatch, name: str, action: int) -> None:
    on.action.name = name.replace(" ", "_")
    on.action.typed_config.CopyFrom(packed(rbac_pb2.Action(name=name, action=action)))
