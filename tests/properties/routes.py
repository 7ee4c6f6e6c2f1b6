"""Random routes, of few names, so that they meet services, subsets and each other. Some contradict themselves."""

from __future__ import annotations

from hypothesis import strategies as st

from schemas.objects import AnyRoute, GRPCRoute, HTTPRoute, Metadata, TCPRoute
from schemas.objects.grpc_route import GRPCBackendRef, GRPCMethodMatch, GRPCRouteMatch, GRPCRouteRule, GRPCRouteSpec
from schemas.objects.http_route import (
    HTTPBackendRef,
    HTTPRouteMatch,
    HTTPRouteRule,
    HTTPRouteSpec,
    PathMatch,
    QueryParamMatch,
)
from schemas.objects.route_filters import (
    Cors,
    Fault,
    FaultDelay,
    GrpcFilter,
    HeaderMatch,
    HeaderModifier,
    HttpFilter,
    RequestMirror,
    RequestRedirect,
)
from schemas.objects.route_parts import BackendRef, ParentRef, Retry, SessionPersistence, Timeouts, WeightedBackendRef
from schemas.objects.tcp_route import TCPRouteRule, TCPRouteSpec

LABELS: tuple[dict[str, str], ...] = ({}, {"v": "1"}, {"v": "2"})

_names = st.sampled_from(["web", "orders", "cart"])
_namespaces = st.sampled_from(["shop", "back"])
_maybe_namespaces = st.none() | _namespaces
_ports = st.none() | st.sampled_from([7, 80, 8080])
_parents = st.lists(
    st.builds(
        ParentRef,
        kind=st.sampled_from(["Service", "Service", "ExternalService", "Gateway"]),
        name=_names,
        namespace=_maybe_namespaces,
        port=_ports,
        section_name=st.none() | st.none() | st.sampled_from(["http", "raw"]),
    ),
    min_size=1,
    max_size=2,
    unique=True,
).map(tuple)
_refs = {
    "name": _names,
    "namespace": _maybe_namespaces,
    "port": _ports,
    "match_labels": st.sampled_from(LABELS),
}
_weighted = {**_refs, "weight": st.sampled_from([0, 1, 5])}
_mirrors = st.builds(RequestMirror, backend_ref=st.builds(BackendRef, **_refs), percent=st.none() | st.just(10))
_headers = st.lists(
    st.builds(
        HeaderMatch, type=st.sampled_from(["Exact", "RegularExpression"]), name=st.just("x"), value=st.just("a|b")
    ),
    max_size=1,
).map(tuple)
_modifiers = st.just(HeaderModifier(remove=("x-gone",)))
_filters = st.lists(
    st.one_of(
        st.builds(HttpFilter, type=st.just("RequestMirror"), request_mirror=_mirrors),
        st.builds(HttpFilter, type=st.just("RequestHeaderModifier"), request_header_modifier=_modifiers),
        st.builds(HttpFilter, type=st.just("CORS"), cors=st.just(Cors(allow_origins=("*",)))),
        st.builds(HttpFilter, type=st.just("Fault"), fault=st.just(Fault(delay=FaultDelay(fixed_delay="1s")))),
    ),
    max_size=2,
    unique_by=lambda one: one.type,
).map(tuple)
_paths = st.builds(
    PathMatch,
    type=st.sampled_from(["Exact", "PathPrefix", "RegularExpression"]),
    value=st.sampled_from(["/", "/a", "/a/b", "/a/"]),
)
_http_matches = st.lists(
    st.builds(
        HTTPRouteMatch,
        path=_paths,
        headers=_headers,
        query_params=st.lists(
            st.builds(QueryParamMatch, name=st.just("q"), value=st.sampled_from(["1", "2"])), max_size=1
        ).map(tuple),
        method=st.none() | st.sampled_from(["GET", "POST", "OPTIONS"]),
    ),
    max_size=3,
).map(tuple)
_common = {
    "timeouts": st.sampled_from([Timeouts(), Timeouts(request="2s", backend_request="1s")]),
    "retry": st.none() | st.just(Retry(codes=(503,))),
    "session_persistence": st.none() | st.just(SessionPersistence()),
}
_redirects = st.just(
    HTTPRouteRule(filters=(HttpFilter(type="RequestRedirect", request_redirect=RequestRedirect(scheme="https")),))
)
_http_rules = _redirects | st.builds(
    HTTPRouteRule,
    matches=_http_matches,
    filters=_filters,
    backend_refs=st.lists(st.builds(HTTPBackendRef, **_weighted), min_size=1, max_size=3).map(tuple),
    **_common,
)
_grpc_rules = st.builds(
    GRPCRouteRule,
    matches=st.lists(
        st.builds(
            GRPCRouteMatch,
            method=st.none() | st.builds(GRPCMethodMatch, service=st.just("a"), method=st.none() | st.just("b")),
            headers=_headers,
        ),
        max_size=2,
    ).map(tuple),
    filters=st.lists(st.builds(GrpcFilter, type=st.just("RequestMirror"), request_mirror=_mirrors), max_size=1).map(
        tuple
    ),
    backend_refs=st.lists(st.builds(GRPCBackendRef, **_weighted), min_size=1, max_size=2).map(tuple),
    **_common,
)
_hostnames = st.sampled_from([(), (), ("a.example",), ("*.example", "a.example")])


def _route(kind: type, spec: st.SearchStrategy[object]) -> st.SearchStrategy[AnyRoute]:
    metadata = st.builds(Metadata, name=st.sampled_from(["r1", "r2"]), namespace=_namespaces)
    return st.builds(kind, api_version=st.just("mesh/v1"), metadata=metadata, spec=spec)


http_routes = _route(
    HTTPRoute,
    st.builds(
        HTTPRouteSpec,
        parent_refs=_parents,
        hostnames=_hostnames,
        rules=st.lists(_http_rules, min_size=1, max_size=2).map(tuple),
    ),
)
routes: st.SearchStrategy[AnyRoute] = st.one_of(
    http_routes,
    _route(
        GRPCRoute,
        st.builds(
            GRPCRouteSpec,
            parent_refs=_parents,
            hostnames=_hostnames,
            rules=st.lists(_grpc_rules, min_size=1, max_size=2).map(tuple),
        ),
    ),
    _route(
        TCPRoute,
        st.builds(
            TCPRouteSpec,
            parent_refs=_parents,
            rules=st.tuples(
                st.builds(
                    TCPRouteRule,
                    backend_refs=st.lists(st.builds(WeightedBackendRef, **_weighted), min_size=1, max_size=2).map(
                        tuple
                    ),
                )
            ),
        ),
    ),
)
