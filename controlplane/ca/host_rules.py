"""Which services the holder of a host certificate may be: rules by the names in the certificate. Pure.

dns:db1.example.org       a DNS name of the subject alternative names, letters' case aside
dns:*.shop.example.org    any DNS name with exactly one more label in front
cn:db1.example.org        the subject's common name; cn:*.shop.example.org as above
uri:spiffe://old/db1      a URI of the subject alternative names, exactly
any                       every certificate of that authority
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from cryptography import x509
from cryptography.x509.oid import NameOID

from schemas.errors import InvalidInput, Problem
from schemas.records import HostRule
from schemas.selectors import ServiceSelector
from spiffe.x509 import UNREADABLE

# Rules are looked through at each join, and shown in one table.
MAX_RULES = 100
_LABEL = r"[a-zA-Z0-9_]([a-zA-Z0-9_-]{0,61}[a-zA-Z0-9_])?"
_PATTERN = re.compile(rf"(\*\.)?{_LABEL}(\.{_LABEL})*", re.ASCII)
_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*", re.ASCII)
_URI = re.compile(r"[a-z][a-z0-9+.-]*:[\x21-\x7e]+", re.ASCII)
_MAX_LENGTH = 512


@dataclass(frozen=True, slots=True)
class HostNames:
    """What a certificate says of its holder."""

    dns: frozenset[str]
    uris: frozenset[str]
    common_name: str

    def __str__(self) -> str:
        """For logs and messages."""
        words = [*(f"dns:{name}" for name in sorted(self.dns)), *(f"uri:{one}" for one in sorted(self.uris))]
        return ", ".join([*words, f"cn:{self.common_name}"] if self.common_name else words) or "no name"


def names_of(certificate: x509.Certificate) -> HostNames:
    """Names that are no plain names, such as a wildcard, are left out: they would stand for more than one host."""
    dns: list[str] = []
    uris: list[str] = []
    common: list[str] = []
    try:
        san = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        dns, uris = san.get_values_for_type(x509.DNSName), san.get_values_for_type(x509.UniformResourceIdentifier)
    except (x509.ExtensionNotFound, *UNREADABLE):
        pass
    try:
        found = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        common = [str(one.value) for one in found]
    except UNREADABLE:
        pass
    plain = [name.lower() for name in dns if _is_plain(name)]
    return HostNames(
        frozenset(plain),
        frozenset(uri for uri in uris if _URI.fullmatch(uri) and len(uri) <= _MAX_LENGTH),
        # Two common names could be read as either.
        common[0].lower() if len(common) == 1 and _is_plain(common[0]) else "",
    )


def check_rules(rules: Iterable[HostRule], subject: str) -> tuple[HostRule, ...]:
    """The rules in one form, sorted. Raises InvalidInput with every problem."""
    problems: list[Problem] = []
    good: set[tuple[str, str]] = set()
    for rule in rules:
        if problem := _problem(rule.match):
            problems.append(Problem(subject, f"{rule.match[:80]!r}: {problem}", "rules.match", _REMEDY))
        try:
            good.add((_normal(rule.match), str(ServiceSelector.parse(rule.selector))))
        except InvalidInput as error:
            problems += error.problems
    if not problems and not 0 < len(good) <= MAX_RULES:
        problems.append(Problem(subject, f"{len(good)} rules, expected 1 to {MAX_RULES}", "rules"))
    if problems:
        raise InvalidInput(*problems)
    return tuple(HostRule(match=match, selector=selector) for match, selector in sorted(good))


def selectors_for(names: HostNames, rules: Iterable[HostRule]) -> tuple[ServiceSelector, ...]:
    """What those rules that match allow. A rule that can't be read matches nothing."""
    selected: set[ServiceSelector] = set()
    for rule in rules:
        if _problem(rule.match) or not _matches(rule.match, names):
            continue
        try:
            selected.add(ServiceSelector.parse(rule.selector))
        except InvalidInput:
            continue
    return tuple(sorted(selected, key=str))


_REMEDY = "write dns:NAME, dns:*.DOMAIN, cn:NAME, cn:*.DOMAIN, uri:URI or any"


def _is_plain(name: str) -> bool:
    return bool(_NAME.fullmatch(name)) and len(name) <= 253


def _problem(match: str) -> str:
    kind, _, value = match.partition(":")
    if match == "any":
        return ""
    if kind in ("dns", "cn"):
        return "" if _PATTERN.fullmatch(value) and len(value) <= 253 else "not a name, nor *. before one"
    if kind == "uri":
        return "" if _URI.fullmatch(value) and len(value) <= _MAX_LENGTH else "not a URI"
    return "not understood"


def _normal(match: str) -> str:
    return match if match.startswith("uri:") else match.lower()


def _matches(match: str, names: HostNames) -> bool:
    kind, _, value = match.partition(":")
    match kind:
        case "any":
            return True
        case "dns":
            return any(_fits(value.lower(), name) for name in names.dns)
        case "cn":
            return bool(names.common_name) and _fits(value.lower(), names.common_name)
        case _:
            return value in names.uris


def _fits(pattern: str, name: str) -> bool:
    if not pattern.startswith("*."):
        return pattern == name
    _, dot, rest = name.partition(".")
    return bool(dot) and rest == pattern[2:]
