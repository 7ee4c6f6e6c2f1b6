"""What the filters of a rule or of a backend must hold beyond their schema. Pure."""

from collections.abc import Iterator, Sequence

from routing import expressions
from routing.headers import UNSERVED
from schemas.checking import Fault, Path
from schemas.durations import milliseconds
from schemas.objects.route_filters import (
    FILTER_FIELDS,
    AnyFilter,
    Cors,
    HeaderModifier,
    PathModifier,
    RequestMirror,
)
from schemas.objects.route_filters import Fault as FaultInjection

# How a message is framed, and whose it is: not a route's to say. Envoy refuses `host` itself.
_NOT_TO_CHANGE = {
    "host": "use URLRewrite with a hostname",
    "connection": "leave it out",
    "content-length": "leave it out",
    "transfer-encoding": "leave it out",
    "upgrade": "leave it out",
    "x-forwarded-client-cert": "the caller's identity is the mesh's to say",
    UNSERVED: "sidecars tell one another by it what to try again",
}
_CAMEL = {
    "request_header_modifier": "requestHeaderModifier",
    "response_header_modifier": "responseHeaderModifier",
    "request_redirect": "requestRedirect",
    "url_rewrite": "urlRewrite",
    "request_mirror": "requestMirror",
    "cors": "cors",
    "fault": "fault",
}


def filter_faults(path: Path, filters: Sequence[AnyFilter], *, of_backend: bool = False) -> Iterator[Fault]:
    types = [one.type for one in filters]
    for index, one in enumerate(filters):
        where = (*path, index)
        wanted = FILTER_FIELDS[one.type]
        for field, written in _CAMEL.items():
            given = getattr(one, field, None) is not None
            if field == wanted and not given:
                yield Fault((*where, written), f"missing: a filter of type {one.type} says how in it", "add it")
            elif field != wanted and given:
                yield Fault((*where, written), f"does not belong to a filter of type {one.type}", "leave it out")
        if one.type in types[:index] and one.type != "RequestMirror":
            yield Fault((*where, "type"), f"a second filter of type {one.type}", "merge the two")
        yield from _one(where, one, of_backend)
    if "RequestRedirect" in types and "URLRewrite" in types:
        place = types.index("URLRewrite")
        yield Fault((*path, place, "type"), "a request that is redirected is not rewritten", "leave one of them out")


def _one(path: Path, one: AnyFilter, of_backend: bool) -> Iterator[Fault]:
    for field in ("request_header_modifier", "response_header_modifier"):
        modifier = getattr(one, field)
        if modifier is not None:
            yield from _modifier((*path, _CAMEL[field]), modifier)
    redirect, rewrite = getattr(one, "request_redirect", None), getattr(one, "url_rewrite", None)
    if redirect is not None and redirect.path is not None:
        yield from _path_modifier((*path, "requestRedirect", "path"), redirect.path)
    if rewrite is not None:
        if rewrite.hostname is None and rewrite.path is None:
            yield Fault((*path, "urlRewrite"), "rewrites nothing", "give a hostname or a path")
        if rewrite.path is not None and of_backend:
            remedy = "put it into the rule's own filters"
            yield Fault((*path, "urlRewrite", "path"), "of one backend only the host name can be rewritten", remedy)
        elif rewrite.path is not None:
            yield from _path_modifier((*path, "urlRewrite", "path"), rewrite.path)
    mirror, cors, fault = (getattr(one, field, None) for field in ("request_mirror", "cors", "fault"))
    if mirror is not None:
        yield from _mirror((*path, "requestMirror"), mirror)
    if cors is not None:
        yield from _cors((*path, "cors"), cors)
    if fault is not None:
        yield from _fault((*path, "fault"), fault)


def _modifier(path: Path, modifier: HeaderModifier) -> Iterator[Fault]:
    seen: set[str] = set()
    given = (
        *(((*path, "set", index, "name"), one.name) for index, one in enumerate(modifier.set)),
        *(((*path, "add", index, "name"), one.name) for index, one in enumerate(modifier.add)),
        *(((*path, "remove", index), name) for index, name in enumerate(modifier.remove)),
    )
    if not given:
        yield Fault(path, "changes nothing", "give set, add or remove")
    for where, name in given:
        lower = name.lower()
        if lower in seen:
            yield Fault(where, f"{name!r} a second time", "change a header in one way only")
        if lower in _NOT_TO_CHANGE:
            yield Fault(where, f"{name!r} can't be changed by a route", _NOT_TO_CHANGE[lower])
        seen.add(lower)


def _path_modifier(path: Path, modifier: PathModifier) -> Iterator[Fault]:
    full = modifier.type == "ReplaceFullPath"
    wanted, other = ("replaceFullPath", "replacePrefixMatch") if full else ("replacePrefixMatch", "replaceFullPath")
    given = {"replaceFullPath": modifier.replace_full_path, "replacePrefixMatch": modifier.replace_prefix_match}
    if given[wanted] is None:
        yield Fault((*path, wanted), f"missing: type {modifier.type} says it in this field", "add it")
    if given[other] is not None:
        yield Fault((*path, other), f"does not belong to type {modifier.type}", "leave it out")
    value = given[wanted] or ""
    if "?" in value or "#" in value:
        yield Fault((*path, wanted), "holds a query or a fragment", "write a path only; the query stays as it is")


def _mirror(path: Path, mirror: RequestMirror) -> Iterator[Fault]:
    if mirror.percent is not None and mirror.fraction is not None:
        yield Fault((*path, "percent"), "stands beside `fraction`", "leave one of them out")
    if mirror.fraction is not None and mirror.fraction.numerator > mirror.fraction.denominator:
        yield Fault((*path, "fraction", "numerator"), "more than the whole", "make it at most the denominator")


def _cors(path: Path, cors: Cors) -> Iterator[Fault]:
    for field, values in (
        ("allowMethods", cors.allow_methods),
        ("allowHeaders", cors.allow_headers),
        ("exposeHeaders", cors.expose_headers),
    ):
        if "*" not in values:
            continue
        if len(values) > 1:
            yield Fault((*path, field), "'*' stands beside others", "leave the others out")
        if cors.allow_credentials:
            # Fetch standard, CORS protocol and credentials: browsers then take '*' for a name.
            yield Fault((*path, field), "with allowCredentials browsers don't read '*' as all", "name them")
    if "*" in cors.allow_origins and cors.allow_credentials:
        remedy = "name the origins: any page could read what the user may"
        yield Fault((*path, "allowOrigins"), "'*' with allowCredentials", remedy)


def _fault(path: Path, fault: FaultInjection) -> Iterator[Fault]:
    if fault.delay is None and fault.abort is None:
        yield Fault(path, "neither delays nor aborts", "give delay or abort")
    if fault.delay is not None and milliseconds(fault.delay.fixed_delay) == 0:
        yield Fault((*path, "delay", "fixedDelay"), "no delay at all", "write 1ms or more")
    if fault.abort is not None and (fault.abort.http_status is None) == (fault.abort.grpc_status is None):
        yield Fault((*path, "abort"), "gives not exactly one of httpStatus and grpcStatus", "give one of them")
    names = [one.name.lower() for one in fault.headers]
    for index, one in enumerate(fault.headers):
        if names[index] in names[:index]:
            yield Fault((*path, "headers", index, "name"), f"{one.name!r} a second time", "name it once")
        if one.type == "RegularExpression":
            try:
                expressions.check(one.value)
            except expressions.BadExpression as error:
                message = f"not a regular expression that sidecars take: {error}"
                yield Fault((*path, "headers", index, "value"), message, "see docs/routing.md, Expressions")
