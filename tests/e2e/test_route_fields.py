"""What each field of a rule does, through a whole mesh: by HTTP/1.1, HTTP/2, and gRPC, unary and with streams."""

from __future__ import annotations

from typing import Any

from tests.e2e.asking import CALLS, WEB_WAYS, Ask
from tests.e2e.mesh import E2eMesh
from tests.e2e.rows import EVERY, ONE, TWO, Table, all_hold

TABLE = Table()
row = TABLE.row

NOBODY = {"name": "api", "matchLabels": {"instance": "nobody"}}


def header_filter(kind: str, **how: Any) -> dict[str, Any]:
    field = "requestHeaderModifier" if kind == "Request" else "responseHeaderModifier"
    return {"type": f"{kind}HeaderModifier", field: how}


def named(**values: str) -> list[dict[str, str]]:
    return [{"name": name.replace("_", "-"), "value": value} for name, value in values.items()]


def fault(**how: Any) -> dict[str, Any]:
    return {"filters": [{"type": "Fault", "fault": how}]}


# -- matches


@row(WEB_WAYS, {"matches": [{"path": {"type": "Exact", "value": "/f/exact/one"}}], "backendRefs": [ONE]},
     {"backendRefs": [TWO]})  # fmt: skip
async def exact(ask: Ask) -> None:
    assert (await ask("/one?q=1")).instance == "api-1"
    assert (await ask("/one/more")).instance == "api-2"


@row(WEB_WAYS, {"matches": [{"path": {"type": "RegularExpression", "value": "/f/expression/[0-9]+"}}],
                "backendRefs": [ONE]}, {"backendRefs": [TWO]})  # fmt: skip
async def expression(ask: Ask) -> None:
    assert (await ask("/77")).instance == "api-1"
    assert (await ask("/77x")).instance == "api-2"


@row(WEB_WAYS, {"match": {"method": "POST"}, "backendRefs": [ONE]}, {"backendRefs": [TWO]})
async def http_method(ask: Ask) -> None:
    assert (await ask(method="POST")).instance == "api-1"
    assert (await ask(method="PUT")).instance == "api-2"


_TWO_HEADERS = [{"name": "x-a", "value": "1"}, {"type": "RegularExpression", "name": "x-b", "value": "b+"}]


@row(EVERY, {"match": {"headers": _TWO_HEADERS}, "backendRefs": [ONE]}, {"backendRefs": [TWO]})
async def headers(ask: Ask) -> None:
    assert (await ask(x_a="1", x_b="bb")).instance == "api-1"
    assert (await ask(x_a="1", x_b="bc")).instance == "api-2"
    assert (await ask(x_a="2", x_b="bb")).instance == "api-2"


_TWO_PARAMETERS = [{"name": "q", "value": "1"}, {"type": "RegularExpression", "name": "r", "value": "[0-9]+"}]


@row(WEB_WAYS, {"match": {"queryParams": _TWO_PARAMETERS}, "backendRefs": [ONE]}, {"backendRefs": [TWO]})
async def query(ask: Ask) -> None:
    assert (await ask("?q=1&r=22")).instance == "api-1"
    assert (await ask("?q=1&r=x")).instance == "api-2"
    assert (await ask("?q=2&r=22")).instance == "api-2"


@row(CALLS, {"matches": [{"method": {"service": "fields.grpc_method", "method": "Chat"}}], "backendRefs": [ONE]},
     {"backendRefs": [TWO]})  # fmt: skip
async def grpc_method(ask: Ask) -> None:
    assert (await ask()).instance == ("api-1" if ask.way == "chat" else "api-2")


_CALLS_BY_EXPRESSION = {"type": "RegularExpression", "service": "fields\\.grpc_ex.*", "method": "Ch(at)?|.*y"}


@row(CALLS, {"matches": [{"method": _CALLS_BY_EXPRESSION}], "backendRefs": [TWO]})
async def grpc_expression(ask: Ask) -> None:
    assert (await ask()).instance == "api-2"


# -- backends


@row(EVERY, {"backendRefs": [{**ONE, "weight": 9}, {**TWO, "weight": 1}]})
async def weights(ask: Ask) -> None:
    found = await ask.served(40)
    assert set(found) <= {"api-1", "api-2"}
    assert found["api-1"] > 20  # of 36: below that it is once in a billion times


@row(EVERY, {"backendRefs": [{**ONE, "weight": 0}, TWO]})
async def weight_zero(ask: Ask) -> None:
    assert await ask.served(6) == {"api-2": 6}


@row(EVERY, {"name": "to-nobody", "backendRefs": [{**ONE, "weight": 0}]})
async def all_weights_zero(ask: Ask) -> None:
    """The rule is called by its name in the answer."""
    answer = await ask()
    assert answer.code == ("UNKNOWN" if ask.is_grpc else "500")
    assert "'to-nobody' sends nothing anywhere: all weights are 0" in answer.text


@row(EVERY, {"backendRefs": [TWO]})
async def subset(ask: Ask) -> None:
    assert await ask.served(6) == {"api-2": 6}


@row(EVERY, {"backendRefs": [NOBODY]})
async def subset_of_nobody(ask: Ask) -> None:
    answer = await ask()
    assert answer.code == ("UNAVAILABLE" if ask.is_grpc else "503")
    assert "instance=nobody" in answer.text


_OF_ONE_BACKEND = [
    header_filter("Request", set=named(x_set="two"), add=named(x_add="two"), remove=["x-gone"]),
    header_filter("Response", set=named(x_set="two"), add=named(x_add="two"), remove=["x-from"]),
]


@row(EVERY, {"backendRefs": [ONE, {**TWO, "filters": _OF_ONE_BACKEND}]})
async def of_one_backend(ask: Ask) -> None:
    answers = await ask.times(20, x_gone="1")
    assert {answer.instance for answer in answers} == {"api-1", "api-2"}
    for answer in answers:
        is_two = answer.instance == "api-2"
        for name in ("x-set", "x-add"):
            assert answer.sent(name) == answer.header(name) == (["two"] if is_two else [])
        assert (answer.sent("x-gone"), answer.header("x-from")) == (([], []) if is_two else (["1"], ["api-1"]))


@row(EVERY, {"backendRefs": [{**TWO, "filters": [{"type": "URLRewrite", "urlRewrite": {"hostname": "two.test"}}]}]})
async def host_of_one_backend(ask: Ask) -> None:
    answer = await ask()
    assert answer.instance == "api-2"
    assert ask.is_grpc or answer.sent("host") in (["two.test"], [])  # HTTP/2 has it in :authority


# -- filters


@row(EVERY, {"filters": [
    header_filter("Request", set=named(x_set="100%"), add=named(x_add="b", x_new="n"), remove=["x-gone"])
]})  # fmt: skip
async def request_headers(ask: Ask) -> None:
    answer = await ask(x_set="a", x_add="a", x_gone="1", x_kept="1")
    assert [answer.sent(name) for name in ("x-set", "x-new", "x-gone", "x-kept")] == [["100%"], ["n"], [], ["1"]]
    assert ",".join(answer.sent("x-add")).replace(" ", "") == "a,b"


@row(EVERY, {"filters": [
    header_filter("Response", set=named(x_set="100%"), add=named(x_add="b"), remove=["x-from"])
]})  # fmt: skip
async def response_headers(ask: Ask) -> None:
    answer = await ask()
    assert [answer.header(name) for name in ("x-set", "x-add", "x-from")] == [["100%"], ["b"], []]


@row(WEB_WAYS, {"filters": [{"type": "URLRewrite", "urlRewrite": {
    "hostname": "in.test", "path": {"type": "ReplaceFullPath", "replaceFullPath": "/whole"}}}]})  # fmt: skip
async def rewrite(ask: Ask) -> None:
    assert (await ask("/a?q=1")).seen["path"] == "/whole?q=1"


@row(WEB_WAYS, {"filters": [{"type": "URLRewrite", "urlRewrite": {
    "path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/new"}}}]})  # fmt: skip
async def rewrite_prefix(ask: Ask) -> None:
    assert (await ask("/a?q=1")).seen["path"] == "/new/a?q=1"


@row(WEB_WAYS, {"filters": [{"type": "RequestRedirect", "requestRedirect": {
    "scheme": "https", "hostname": "other.test", "port": 8443, "statusCode": 308,
    "path": {"type": "ReplaceFullPath", "replaceFullPath": "/there"}}}]})  # fmt: skip
async def redirect(ask: Ask) -> None:
    answer = await ask("/a?q=1")
    assert (answer.code, answer.header("location")) == ("308", ["https://other.test:8443/there?q=1"])


@row(WEB_WAYS, {"filters": [{"type": "RequestRedirect", "requestRedirect": {
    "hostname": "other.test", "port": 81, "path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/new"}}}
]})  # fmt: skip
async def redirect_prefix(ask: Ask) -> None:
    answer = await ask("/a?q=1")
    assert (answer.code, answer.header("location")) == ("302", ["http://other.test:81/new/a?q=1"])


_CODES = (301, 303, 307)


@row(WEB_WAYS, *({"match": {"path": {"value": f"/f/redirect_codes/{code}"}},
                  "filters": [{"type": "RequestRedirect", "requestRedirect": {"scheme": "http", "statusCode": code}}]}
                 for code in _CODES))  # fmt: skip
async def redirect_codes(ask: Ask) -> None:
    answers = [await ask(f"/{code}") for code in _CODES]
    assert [answer.code for answer in answers] == [str(code) for code in _CODES]
    assert all(answer.header("location")[0].startswith("http://") for answer in answers)


def mirror(to: dict[str, Any] | Any, **how: Any) -> dict[str, Any]:
    return {"type": "RequestMirror", "requestMirror": {"backendRef": to, **how}}


@row(EVERY, {"filters": [mirror(TWO), mirror(ONE)], "backendRefs": [ONE]})
async def mirrors(ask: Ask) -> None:
    """To two different backends."""
    plan = f"{ask.where}-{ask.way}"
    assert (await ask(plan=f"{plan}:")).instance == "api-1"
    await ask.arrive(plan, {"api-1": 2, "api-2": 1})


_SHARES = [mirror(TWO, percent=100), mirror(TWO, fraction={"numerator": 3, "denominator": 3}), mirror(ONE, percent=0),
           mirror(ONE, fraction={"numerator": 0})]  # fmt: skip


@row(EVERY, {"filters": _SHARES, "backendRefs": [ONE]})
async def mirrors_of_a_share(ask: Ask) -> None:
    plan = f"{ask.where}-{ask.way}"
    assert [answer.instance for answer in await ask.times(2, plan=f"{plan}:")] == ["api-1", "api-1"]
    await ask.arrive(plan, {"api-1": 2, "api-2": 4})


def cors(**how: Any) -> dict[str, Any]:
    return {"filters": [{"type": "CORS", "cors": how}]}


async def allowed(ask: Ask, origin: str) -> list[str]:
    """What a preflight is answered with."""
    asked = {"Origin": origin, "Access_Control_Request_Method": "POST"}
    return (await ask(method="OPTIONS", **asked)).header("access-control-allow-origin")


@row(WEB_WAYS, cors(allowOrigins=["https://shop.test", "https://*.shop.test"], allowCredentials=True,
     allowMethods=["GET", "POST"], allowHeaders=["x-one"], exposeHeaders=["x-two"], maxAge=60))  # fmt: skip
async def cors_of_some(ask: Ask) -> None:
    answer = await ask(method="OPTIONS", Origin="https://a.shop.test", Access_Control_Request_Method="POST")
    assert (answer.code, answer.seen) == ("200", {})
    said = [answer.header(f"access-control-{one}") for one in ("allow-origin", "allow-credentials", "allow-methods",
                                                               "allow-headers", "max-age")]  # fmt: skip
    assert said == [["https://a.shop.test"], ["true"], ["GET,POST"], ["x-one"], ["60"]]
    assert await allowed(ask, "https://shop.test") == ["https://shop.test"]
    assert await allowed(ask, "http://shop.test") == []
    assert (await ask(Origin="https://shop.test")).header("access-control-expose-headers") == ["x-two"]


@row(WEB_WAYS, cors(allowOrigins=["*"], allowMethods=["*"], allowHeaders=["*"], exposeHeaders=["*"]))
async def cors_of_all(ask: Ask) -> None:
    assert await allowed(ask, "http://any.test:81") in (["*"], ["http://any.test:81"])


@row(WEB_WAYS, cors(allowOrigins=["https://*"]))
async def cors_of_a_scheme(ask: Ask) -> None:
    assert await allowed(ask, "https://any.test") == ["https://any.test"]
    assert await allowed(ask, "http://any.test") == []


@row(EVERY, fault(delay={"fixedDelay": "3s"}, headers=[{"name": "x-fault", "value": "on"}]))
async def delay(ask: Ask) -> None:
    late = await ask(x_fault="on")
    assert (late.code, late.seconds >= 3) == (ask.well, True)
    assert min(answer.seconds for answer in await ask.times(3, x_fault="off")) < 3  # of three: the machine may be busy


@row(EVERY, fault(delay={"fixedDelay": "3s", "percentage": 50}))
async def delay_of_a_share(ask: Ask) -> None:
    """All or none of them once in 500,000 times."""
    times = [answer.seconds for answer in await ask.together(20)]
    assert min(times) < 3 <= max(times)


_BY_EXPRESSION = [{"type": "RegularExpression", "name": "x-fault", "value": "a+b"}]


@row(WEB_WAYS, fault(abort={"httpStatus": 418}, headers=_BY_EXPRESSION))
async def http_abort(ask: Ask) -> None:
    assert [(await ask(x_fault=value)).code for value in ("aab", "ab", "abc")] == ["418", "418", "200"]


@row(CALLS, fault(abort={"grpcStatus": 8}, headers=_BY_EXPRESSION))
async def grpc_abort(ask: Ask) -> None:
    assert [(await ask(x_fault=value)).code for value in ("aab", "abc")] == ["RESOURCE_EXHAUSTED", "OK"]


@row(CALLS, fault(abort={"httpStatus": 503}))
async def grpc_abort_by_http_status(ask: Ask) -> None:
    assert (await ask()).code == "UNAVAILABLE"


@row(WEB_WAYS, fault(abort={"httpStatus": 418, "percentage": 50}))
async def http_abort_of_a_share(ask: Ask) -> None:
    """All or none of them once in 500,000 times."""
    assert {answer.code for answer in await ask.times(20)} == {"418", "200"}


@row(CALLS, fault(abort={"grpcStatus": 8, "percentage": 50}))
async def grpc_abort_of_a_share(ask: Ask) -> None:
    assert {answer.code for answer in await ask.times(20)} == {"RESOURCE_EXHAUSTED", "OK"}


async def test_rules(mesh: E2eMesh) -> None:
    """All of them in one change set."""
    async with mesh.applied(*TABLE.routes()):
        await all_hold(mesh, TABLE)
