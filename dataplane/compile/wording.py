"""Rules and their conditions ▸ Envoy's words for them: policies of RBAC."""

from collections.abc import Callable, Iterable
from ipaddress import ip_network
from typing import Generic, TypeVar

from envoy.config.rbac.v3 import rbac_pb2
from envoy.type.matcher.v3 import string_pb2

from authz.nearest import Near
from authz.patterns import Text
from authz.rules import Alternative, Condition, PortRule, possible
from dataplane.compile import tokens

K = TypeVar("K")
V = TypeVar("V")

# What matches nothing, since Envoy takes no empty list.
NO_PERMISSION = rbac_pb2.Permission(not_rule=rbac_pb2.Permission(any=True))
NO_PRINCIPAL = rbac_pb2.Principal(not_id=rbac_pb2.Principal(any=True))
# Who has shown no certificate: on such a connection `authenticated` never holds, whatever it asks for.
NOBODY = rbac_pb2.Principal(not_id=rbac_pb2.Principal(authenticated=rbac_pb2.Principal.Authenticated()))


class _Kept(Generic[K, V]):
    """What was made of something, for as long as each round asks for it again."""

    def __init__(self) -> None:
        self._before: dict[K, V] = {}
        self._now: dict[K, V] = {}

    def next_round(self) -> None:
        self._before, self._now = self._now, {}

    def of(self, key: K, make: Callable[[K], V]) -> V:
        """Not to be changed: who asks next is given the same one."""
        found = self._now.get(key)
        if found is None:
            found = self._before.get(key)
            self._now[key] = found = make(key) if found is None else found
        return found


class Wording:
    """What rules are in Envoy's words. It keeps what the last round asked for: a change of one rule puts that one into
    words, and no other. A rule and its near misses share most of theirs."""

    def __init__(self) -> None:
        self._operations: _Kept[tuple[Alternative, ...], rbac_pb2.Policy] = _Kept()
        self._sources: _Kept[tuple[Alternative, ...], rbac_pb2.Policy] = _Kept()
        self._asked: _Kept[Condition, rbac_pb2.Permission] = _Kept()
        self._calling: _Kept[Condition, rbac_pb2.Principal] = _Kept()

    def next_round(self) -> None:
        """Forget what nobody has asked for since the last time."""
        for kept in (self._operations, self._sources, self._asked, self._calling):
            kept.next_round()

    def add(self, to: rbac_pb2.RBAC, rules: Iterable[PortRule | Near]) -> None:
        """What can match nothing on this port is left out: Envoy refuses an empty list."""
        for rule in rules:
            what = self._operations.of(rule.operations, self._permitting)
            who = self._sources.of(rule.sources, self._admitting)
            if what.permissions and who.principals:
                policy = to.policies[rule.name]
                policy.CopyFrom(what)
                policy.MergeFrom(who)

    def _permitting(self, operations: tuple[Alternative, ...]) -> rbac_pb2.Policy:
        made = rbac_pb2.Policy()
        for conditions in possible(operations):
            permission = made.permissions.add()
            if conditions:
                permission.and_rules.rules.extend([self._asked.of(one, _asked) for one in conditions])
            else:
                permission.any = True
        return made

    def _admitting(self, sources: tuple[Alternative, ...]) -> rbac_pb2.Policy:
        made = rbac_pb2.Policy()
        for conditions in possible(sources):
            principal = made.principals.add()
            match conditions:
                case ():
                    principal.any = True
                case (Condition(field="trustDomain", values=(text,), or_nobody=False),):
                    _call(principal, text)
                case _:
                    principal.and_ids.ids.extend([self._calling.of(one, _calling) for one in conditions])
        return made


def add_caller(to: rbac_pb2.Policy, identity: str) -> None:
    """Whoever has exactly that identity."""
    _match(to.principals.add().authenticated.principal_name, Text("exact", identity))


# Messages are filled where they stand: made apart and put together they take three times as long.


def _asked(condition: Condition) -> rbac_pb2.Permission:
    made = rbac_pb2.Permission()
    any_of = (made.not_rule if condition.negated else made).or_rules.rules
    for text in condition.values:
        _ask(any_of.add(), condition, text)
    if not any_of:
        any_of.append(NO_PERMISSION)
    return made


def _ask(permission: rbac_pb2.Permission, condition: Condition, text: Text) -> None:
    match condition.field:
        case "methods":
            _ask_header(permission, ":method", text)
        case "hosts":
            _ask_header(permission, ":authority", text)
        case "headers":
            _ask_header(permission, condition.header, text)
        case "paths" | "grpc" if text.hints:
            both = permission.and_rules.rules
            hints = both.add().or_rules.rules
            for hint in text.hints:
                hints.add().url_path.path.contains = hint
            _match(both.add().url_path.path, text)
        case "paths" | "grpc":
            _match(permission.url_path.path, text)  # the path without the query
        case other:
            raise AssertionError(f"no RBAC for the condition {other}")


def _ask_header(permission: rbac_pb2.Permission, name: str, text: Text) -> None:
    permission.header.name = name
    if text.how == "present":
        permission.header.present_match = True
    else:
        _match(permission.header.string_match, text)


def _calling(condition: Condition) -> rbac_pb2.Principal:
    made = rbac_pb2.Principal()
    any_of = (made.not_id if condition.negated else made).or_ids.ids
    for text in condition.values:
        match condition.field:
            case "requestPrincipals":
                any_of.extend(tokens.request_principals(text, _matcher))
            case "when":
                any_of.extend(tokens.claim(condition.claim, text, _matcher))
            case _:
                _call(any_of.add(), text)
    if not any_of:
        any_of.append(NO_PRINCIPAL)
    if condition.or_nobody:
        any_of.append(NOBODY)
    return made


def _call(principal: rbac_pb2.Principal, text: Text) -> None:
    if text.how == "cidr":
        network = ip_network(text.value, strict=False)
        principal.direct_remote_ip.address_prefix = str(network.network_address)
        principal.direct_remote_ip.prefix_len.value = network.prefixlen
    else:
        _match(principal.authenticated.principal_name, text)


def _matcher(text: Text) -> string_pb2.StringMatcher:
    made = string_pb2.StringMatcher()
    _match(made, text)
    return made


def _match(matcher: string_pb2.StringMatcher, text: Text) -> None:
    if text.how == "regex":
        matcher.safe_regex.regex = text.value
    else:
        setattr(matcher, text.how, text.value)
