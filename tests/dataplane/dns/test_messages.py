"""Names and messages, as values: what is answered to which question, and that no bytes do harm."""

from __future__ import annotations

import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataplane.dns import messages
from dataplane.dns.messages import MAX_UDP_BYTES, NEGATIVE_TTL_S, TTL_S, Query, Unusable
from dataplane.dns.upstreams import MAX_SERVERS, SHUNNED_S, Order, Server, nameservers
from dataplane.dns.zone import Apex, Foreign, Host, Named, Nothing, Port, asked
from schemas.names import ServiceRef

ORDERS = Named("127.240.3.4", None, {"http": 8080, "raw": 7000})
BOTH = Named("127.240.3.4", "fd6d::304", {})
NO_ADDRESS = Named(None, None, {})
TABLE = {
    ServiceRef("shop", "orders"): ORDERS,
    ServiceRef("back", "both"): BOTH,
    ServiceRef("back", "none"): NO_ADDRESS,
    ServiceRef("shop", "back"): ORDERS,
}


def ask(name: str, rdtype: str = "A", **more: object) -> Query:
    return messages.read(dns.message.make_query(name, rdtype, **more).to_wire())  # type: ignore[arg-type]  # its options


def answered(name: str, rdtype: str = "A", namespace: str = "shop") -> dns.message.Message:
    query = ask(name, rdtype)
    what = asked(query.labels, namespace)
    named = TABLE.get(what.service) if isinstance(what, Host | Port) else None
    reply = dns.message.from_wire(messages.answer(query, what, named))
    assert query.message.is_response(reply)
    return reply


# -- whose name it is


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("orders.shop.mesh", Host(ServiceRef("shop", "orders"))),
        ("orders.mesh", Host(ServiceRef("own", "orders"), exists=True)),
        ("orders", Host(ServiceRef("own", "orders"), bare=True)),
        ("mesh", Apex()),
        ("_http._tcp.orders.shop.mesh", Port(ServiceRef("shop", "orders"), "http")),
        ("_http._tcp.orders.mesh", Port(ServiceRef("own", "orders"), "http")),
        ("_tcp.orders.shop.mesh", Port(ServiceRef("shop", "orders"), None)),
        ("_http._udp.orders.shop.mesh", Nothing(exists=False)),
        ("a.b.c.mesh", Nothing(exists=False)),
        ("-a.b.mesh", Nothing(exists=False)),
        ("orders.shop", Foreign()),
        ("mesh.example.com", Foreign()),
        ("orders.shop.mesh.example.com", Foreign()),
        ("notmesh", Host(ServiceRef("own", "notmesh"), bare=True)),
        ("_tcp", Foreign()),
        ("x.notmesh", Foreign()),
    ],
)
def test_whose_name_it_is(name: str, expected: object) -> None:
    assert asked(name.split("."), "own") == expected


def test_the_root_is_somebody_elses() -> None:
    assert asked((), "own") == Foreign()


# -- answers


@pytest.mark.parametrize("name", ["orders.shop.mesh.", "ORDERS.Shop.mesh.", "orders.mesh.", "orders."])
def test_an_address(name: str) -> None:
    reply = answered(name)
    assert reply.rcode() == dns.rcode.NOERROR
    assert reply.flags & dns.flags.AA
    assert reply.flags & dns.flags.RA
    [found] = reply.answer
    assert (found.name.to_text(), found.ttl, [one.to_text() for one in found]) == (name, TTL_S, ["127.240.3.4"])


def test_both_families() -> None:
    assert [one.to_text() for one in answered("both.back.mesh", "AAAA").answer[0]] == ["fd6d::304"]
    assert {rrset.rdtype for rrset in answered("both.back.mesh", "ANY").answer} == {
        dns.rdatatype.A,
        dns.rdatatype.AAAA,
    }


@pytest.mark.parametrize(
    ("name", "rdtype"),
    [
        ("orders.shop.mesh", "AAAA"),  # the host has no IPv6
        ("orders.shop.mesh", "HTTPS"),
        ("orders.shop.mesh", "MX"),
        ("orders.shop.mesh", "SRV"),
        ("none.back.mesh", "A"),
        ("_tcp.orders.shop.mesh", "SRV"),
        ("_http._tcp.orders.shop.mesh", "A"),
        ("mesh", "A"),
        ("shop.mesh", "A"),  # no service of ours is named so, but the names of a namespace may be below
    ],
)
def test_a_name_without_records_of_the_type(name: str, rdtype: str) -> None:
    reply = answered(name, rdtype)
    assert (reply.rcode(), reply.answer) == (dns.rcode.NOERROR, [])
    _has_soa(reply)


@pytest.mark.parametrize(
    "name",
    [
        "cart.shop.mesh",
        "orders.back.mesh",
        "_ftp._tcp.orders.shop.mesh",
        "_http._tcp.cart.shop.mesh",
        "_tcp.cart.shop.mesh",
        "_http._udp.orders.shop.mesh",
        "a.b.c.d.mesh",
    ],
)
def test_a_name_that_is_not_there(name: str) -> None:
    reply = answered(name, "SRV")
    assert (reply.rcode(), reply.answer) == (dns.rcode.NXDOMAIN, [])
    _has_soa(reply)


def _has_soa(reply: dns.message.Message) -> None:
    """By which resolvers know for how long that may be remembered (RFC 2308): the lesser of TTL and minimum."""
    [soa] = reply.authority
    assert (soa.name.to_text(), soa.rdtype) == ("mesh.", dns.rdatatype.SOA)
    assert soa.ttl == soa[0].minimum == NEGATIVE_TTL_S


def test_where_a_port_is() -> None:
    reply = answered("_raw._tcp.orders.mesh", "SRV")
    [found] = reply.answer
    assert found[0].to_text() == "0 0 7000 orders.shop.mesh."
    assert [(one.name.to_text(), one[0].to_text()) for one in reply.additional] == [
        ("orders.shop.mesh.", "127.240.3.4")
    ]


def test_the_zone_itself() -> None:
    assert answered("mesh", "SOA").answer[0].rdtype == dns.rdatatype.SOA
    assert answered("mesh", "NS").answer[0].rdtype == dns.rdatatype.NS


# -- what is no query


def reply_to(data: bytes) -> dns.message.Message | None:
    with pytest.raises(Unusable) as caught:
        messages.read(data)
    return None if caught.value.reply is None else dns.message.from_wire(caught.value.reply)


def test_what_is_refused_and_how() -> None:
    query = dns.message.make_query("orders.shop.mesh", "A")
    wire = query.to_wire()
    assert reply_to(wire[:11]) is None
    assert reply_to(dns.message.make_response(query).to_wire()) is None, "answers to answers would never end"
    for data, rcode in (
        (wire[:20], dns.rcode.FORMERR),
        (wire[:2] + b"\x21" + wire[3:], dns.rcode.NOTIMP),
        (wire[:4] + b"\x00\x00" + wire[6:12], dns.rcode.FORMERR),
        (dns.message.make_query("version.bind", "TXT", "CH").to_wire(), dns.rcode.REFUSED),
        (dns.message.make_query("mesh", "AXFR").to_wire(), dns.rcode.REFUSED),
        (dns.message.make_query("mesh", "A", use_edns=1).to_wire(), dns.rcode.BADVERS),
    ):
        reply = reply_to(data)
        assert reply is not None
        assert (reply.id, reply.rcode()) == (int.from_bytes(data[:2]), rcode)


def test_edns_is_answered_with_edns_and_only_then() -> None:
    with_edns = messages.answer(ask("orders.shop.mesh", use_edns=0, payload=4096), Apex(), None)
    assert dns.message.from_wire(with_edns).edns == 0
    assert dns.message.from_wire(messages.answer(ask("orders.shop.mesh"), Apex(), None)).edns == -1
    assert ask("a", use_edns=0, payload=4096).max_udp_bytes == MAX_UDP_BYTES
    assert ask("a", use_edns=0, payload=100).max_udp_bytes == ask("a").max_udp_bytes == 512


_labels = st.lists(
    st.binary(min_size=1, max_size=63) | st.sampled_from([b"mesh", b"_tcp", b"_http", b"shop"]), max_size=5
)


def _name(labels: list[bytes]) -> dns.name.Name:
    name = dns.name.root
    for label in reversed(labels):
        if sum(len(part) + 1 for part in (label, *name.labels)) <= 255:
            name = dns.name.Name((label, *name.labels))
    return name


@settings(max_examples=150, deadline=None)
@given(
    st.binary(max_size=120)
    | st.binary(max_size=40).map(lambda tail: b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00" + tail)
)
def test_any_bytes_are_a_query_or_refused(data: bytes) -> None:
    refusal = b""
    try:
        _can_be_answered(messages.read(data))
    except Unusable as unusable:
        refusal = unusable.reply or b""
    if refusal:
        assert refusal[:2] == data[:2]
        assert len(refusal) <= 2 * len(data), "nobody is to be flooded through us"


@settings(max_examples=150, deadline=None)
@given(_labels, st.integers(0, 65535), st.integers(-1, 0), st.sampled_from([*TABLE.values(), None]))
def test_any_question_has_an_answer_that_fits(labels: list[bytes], rdtype: int, edns: int, named: Named | None) -> None:
    message = dns.message.make_query(_name(labels), dns.rdatatype.RdataType.make(rdtype), use_edns=edns)
    try:
        query = messages.read(message.to_wire())
    except Unusable:
        return
    _can_be_answered(query, named)


def _can_be_answered(query: Query, named: Named | None = ORDERS) -> None:
    what = asked(query.labels, "shop")
    if isinstance(what, Foreign):
        onward = messages.onward(query)
        sent = dns.message.from_wire(onward)
        assert sent.question == query.message.question
        return
    wire = messages.answer(query, what, named if isinstance(what, Host | Port) else None)
    assert len(wire) <= 512
    reply = dns.message.from_wire(wire)
    assert reply.id == query.message.id
    assert reply.question == query.message.question
    assert reply.answer or reply.authority


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=100), st.integers(0, 65535), st.booleans())
def test_any_bytes_from_another_server_are_an_answer_or_none(tail: bytes, number: int, is_right: bool) -> None:
    question = messages.with_id(messages.onward(ask("example.com")), number)
    right = dns.message.make_response(dns.message.from_wire(question)).to_wire()
    assert messages.answers(right, question) == dns.rcode.NOERROR
    data = (right if is_right else right[:2]) + tail
    found = messages.answers(data, question)
    if found is not None:
        assert data[:2] == question[:2]


# -- of other servers


def test_onward_goes_the_question_and_nothing_of_the_app() -> None:
    options = [dns.edns.GenericOption(dns.edns.OptionType.COOKIE, b"cookie!!")]
    query = ask("Example.COM", "TXT", use_edns=0, payload=4096, want_dnssec=True, options=options, id=77)
    sent = dns.message.from_wire(messages.onward(query))
    assert sent.question[0].name.to_text() == "Example.COM."
    assert (sent.id, sent.edns, sent.payload, sent.options) == (0, 0, MAX_UDP_BYTES, ())
    assert sent.ednsflags & dns.flags.DO
    assert dns.message.from_wire(messages.onward(ask("example.com"))).edns == -1


def test_whose_answer_it_is() -> None:
    question = messages.with_id(messages.onward(ask("example.com")), 5)
    good = dns.message.make_response(dns.message.from_wire(question))
    good.set_rcode(dns.rcode.SERVFAIL)
    assert messages.answers(good.to_wire(), question) == dns.rcode.SERVFAIL
    assert messages.answers(messages.with_id(good.to_wire(), 6), question) is None, "another id"
    other = messages.with_id(messages.onward(ask("example.org")), 5)
    assert messages.answers(good.to_wire(), other) is None, "another name"
    assert messages.answers(question, question) is None, "no answer at all"


def test_a_long_answer_is_cut_for_udp() -> None:
    query = ask("example.com", "TXT", id=9)
    long = dns.message.make_response(dns.message.from_wire(messages.onward(query)))
    long.answer.append(dns.rrset.from_text("example.com.", 5, "IN", "TXT", *(f'"{"x" * 200}{n}"' for n in range(5))))
    wire = long.to_wire(max_size=65535)
    cut = messages.relayed(query, wire, udp=True)
    assert len(cut) <= 512
    assert messages.is_truncated(cut)
    assert messages.id_of(cut) == 9
    whole = messages.relayed(query, wire, udp=False)
    assert (len(whole), messages.id_of(whole)) == (len(wire), 9)


@pytest.mark.parametrize(
    ("text", "server"),
    [
        ("10.0.0.2", Server("10.0.0.2", 53)),
        ("10.0.0.2:5353", Server("10.0.0.2", 5353)),
        ("fd00::2", Server("fd00::2", 53)),
        ("[fd00::2]:5353", Server("fd00::2", 5353)),
    ],
)
def test_how_servers_are_written(text: str, server: Server) -> None:
    assert Server.parse(text) == server
    assert Server.parse(str(server)) == server


@pytest.mark.parametrize("text", ["", "x", "10.0.0.2:", "10.0.0.2:0", "10.0.0.2:99999", "[::1]", "[::1]x:5", "a.b:53"])
def test_what_is_no_server(text: str) -> None:
    with pytest.raises(ValueError, match=r"IPv4 or IPv6|no port|no address"):
        Server.parse(text)


def test_resolv_conf() -> None:
    text = "# a\nsearch x\nnameserver 10.0.0.1\nnameserver\nnameserver nonsense\nnameserver fe80::1%eth0 # b\n" + (
        "nameserver 10.0.0.9\n" * 5
    )
    found = nameservers(text)
    assert found[:2] == [Server("10.0.0.1"), Server("fe80::1%eth0")]
    assert len(found) == MAX_SERVERS


def test_who_did_not_answer_is_asked_last_for_a_while() -> None:
    one, two, three = (Server(f"10.0.0.{number}") for number in (1, 2, 3))
    order = Order()
    assert order.of([one, two, three], 0) == [one, two, three]
    order.failed(one, 0)
    assert order.of([one, two, three], 1) == [two, three, one]
    order.failed(two, 1)
    assert order.of([one, two, three], 2) == [three, one, two]
    order.worked(two)
    assert order.of([one, two, three], 2) == [two, three, one]
    assert order.of([one, two, three], SHUNNED_S) == [one, two, three]
