"""Queries and answers as bytes. Pure.

RFC 1035, 2308 (negative answers), 2782 (SRV), 6891 (EDNS), 8482 (ANY). Any bytes that come are a query, or an answer
that says what is wrong with them, or nothing that is worth an answer.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from dataplane.dns.zone import ZONE, Apex, Asked, Host, Named, Nothing, Port

# Seconds. Addresses are stable; what changes is that a service goes. Its address rests for a day then.
TTL_S = 30
# Seconds that the absence of a name may be remembered: a new service is found this soon.
NEGATIVE_TTL_S = 5
# Bytes that pass everywhere without fragments (DNS flag day 2020); what is longer comes by TCP.
MAX_UDP_BYTES = 1232
# Bytes that every client takes (RFC 1035, 2.3.4).
MIN_UDP_BYTES = 512
_HEADER_BYTES = 12

_ZONE_NAME = dns.name.from_text(f"{ZONE}.")
_SOA = f"dns.{ZONE}. hostmaster.{ZONE}. 1 3600 600 86400 {NEGATIVE_TTL_S}"
_QR, _TC, _OPCODE_MASK, _KEPT_FLAGS = 0x8000, 0x0200, 0x7800, 0x7910  # kept: opcode, RD, CD
# Whole zones, and types that are no types of records (RFC 1035, 3.2.3).
_NO_RECORDS = frozenset({dns.rdatatype.AXFR, dns.rdatatype.IXFR, dns.rdatatype.MAILA, dns.rdatatype.MAILB})


class Unusable(Exception):
    """No query. `reply` says so to who sent it; None: nothing is worth to be said."""

    def __init__(self, reply: bytes | None) -> None:
        super().__init__("no query")
        self.reply = reply


@dataclass(frozen=True, slots=True)
class Query:
    message: dns.message.Message
    name: dns.name.Name
    type: dns.rdatatype.RdataType

    @property
    def labels(self) -> tuple[str, ...]:
        """In lower case, without the root. A byte that is no ASCII is in no name of ours."""
        return tuple(label.decode("latin-1").lower() for label in self.name.labels[:-1])

    @property
    def max_udp_bytes(self) -> int:
        """What its sender takes by UDP."""
        if self.message.edns < 0:
            return MIN_UDP_BYTES
        return min(max(self.message.payload, MIN_UDP_BYTES), MAX_UDP_BYTES)


def read(data: bytes) -> Query:
    """Raises Unusable, whatever the bytes are."""
    if len(data) < _HEADER_BYTES or _flags(data) & _QR:
        raise Unusable(None)  # an answer to an answer would go to and fro for ever
    if _flags(data) & _OPCODE_MASK:
        raise Unusable(_bare_reply(data, dns.rcode.NOTIMP))
    try:
        message = dns.message.from_wire(data)
    except (dns.exception.DNSException, ValueError) as error:
        raise Unusable(_bare_reply(data, dns.rcode.FORMERR)) from error
    if len(message.question) != 1:
        raise Unusable(_bare_reply(data, dns.rcode.FORMERR))
    question = message.question[0]
    query = Query(message, question.name, question.rdtype)
    if message.edns > 0:
        raise Unusable(failure(query, dns.rcode.BADVERS))
    if question.rdclass != dns.rdataclass.IN or question.rdtype in _NO_RECORDS:
        raise Unusable(failure(query, dns.rcode.REFUSED))
    return query


def failure(query: Query, rcode: dns.rcode.Rcode) -> bytes:
    response = _response(query)
    response.set_rcode(rcode)
    return response.to_wire()


def answer(query: Query, asked: Asked, named: Named | None) -> bytes:
    """asked: what zone.asked says of the query's name, but Foreign. named: the service, None where there is none."""
    response = _response(query)
    response.flags |= dns.flags.AA
    exists = True
    match asked:
        case Host() if named is not None:
            response.answer.extend(_addresses(query.name, query.type, named))
        case Port(service, name) if named is not None:
            port = named.ports.get(name) if name is not None else None
            exists = port is not None or name is None
            if port is not None and query.type in (dns.rdatatype.SRV, dns.rdatatype.ANY):
                target = dns.name.from_text(f"{service}.{ZONE}.")
                response.answer.append(_rrset(query.name, dns.rdatatype.SRV, f"0 0 {port} {target}"))
                response.additional.extend(_addresses(target, dns.rdatatype.ANY, named))
        case Apex():
            if query.type in (dns.rdatatype.SOA, dns.rdatatype.ANY):
                response.answer.append(_rrset(query.name, dns.rdatatype.SOA, _SOA))
            if query.type in (dns.rdatatype.NS, dns.rdatatype.ANY):
                response.answer.append(_rrset(query.name, dns.rdatatype.NS, f"dns.{ZONE}."))
        case Host(exists=exists) | Nothing(exists=exists):
            pass
        case _:
            exists = False
    if not exists:
        response.set_rcode(dns.rcode.NXDOMAIN)
    if not response.answer:
        response.authority.append(_rrset(_ZONE_NAME, dns.rdatatype.SOA, _SOA, ttl=NEGATIVE_TTL_S))
    return response.to_wire()


def _addresses(name: dns.name.Name, rdtype: dns.rdatatype.RdataType, named: Named) -> Iterator[dns.rrset.RRset]:
    for of_type, address in ((dns.rdatatype.A, named.ipv4), (dns.rdatatype.AAAA, named.ipv6)):
        if address is not None and rdtype in (of_type, dns.rdatatype.ANY):
            yield _rrset(name, of_type, address)


def _rrset(name: dns.name.Name, rdtype: dns.rdatatype.RdataType, text: str, *, ttl: int = TTL_S) -> dns.rrset.RRset:
    return dns.rrset.from_text(name, ttl, dns.rdataclass.IN, rdtype, text)


def _response(query: Query) -> dns.message.Message:
    return dns.message.make_response(query.message, recursion_available=True, our_payload=MAX_UDP_BYTES)


# -- for other servers


def onward(query: Query) -> bytes:
    """The question as we ask it of others, with id 0: without what is between the app and us (cookies, padding)."""
    edns = query.message.edns >= 0
    asked = dns.message.make_query(
        query.name,
        query.type,
        use_edns=0 if edns else None,
        payload=query.max_udp_bytes if edns else None,
        want_dnssec=bool(query.message.ednsflags & dns.flags.DO) if edns else False,
        flags=query.message.flags & (dns.flags.RD | dns.flags.CD | dns.flags.AD),
        id=0,
    )
    return asked.to_wire()


def with_id(message: bytes, number: int) -> bytes:
    return number.to_bytes(2) + message[2:]


def id_of(message: bytes) -> int:
    return int.from_bytes(message[:2])


def answers(reply: bytes, question: bytes) -> dns.rcode.Rcode | None:
    """What `reply` says to `question`, both whole messages; None: it is none to it, so from somebody who guesses."""
    if len(reply) < _HEADER_BYTES or not _flags(reply) & _QR or reply[:2] != question[:2]:
        return None
    try:
        got = dns.message.from_wire(reply, question_only=True)
        sent = dns.message.from_wire(question, question_only=True)
    except (dns.exception.DNSException, ValueError):
        return None
    if got.question != sent.question:
        return None
    return dns.rcode.Rcode(_flags(reply) & 0xF)


def is_truncated(message: bytes) -> bool:
    return bool(_flags(message) & _TC)


def relayed(query: Query, reply: bytes, *, udp: bool) -> bytes:
    """Another server's answer, as the one to `query`."""
    reply = with_id(reply, query.message.id)
    if not udp or len(reply) <= query.max_udp_bytes:
        return reply
    cut = _response(query)  # it took no notice of what we said we take
    cut.flags |= dns.flags.TC
    return cut.to_wire()


def _flags(data: bytes) -> int:
    return int.from_bytes(data[2:4])


def _bare_reply(data: bytes, rcode: dns.rcode.Rcode) -> bytes:
    """The header alone: of what can't be read nothing is repeated."""
    flags = _QR | (_flags(data) & _KEPT_FLAGS) | int(rcode)
    return data[:2] + flags.to_bytes(2) + bytes(8)
