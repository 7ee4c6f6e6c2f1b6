r"""Regular expressions that RE2 and Python's `re` both take, and read in the same way.

A sidecar's Envoy refuses a whole RouteConfiguration, with every other service in it, for one expression that RE2 does
not know. So only a subset is let through: literals, ``.``, classes, groups, ``|``, ``^``, ``$``, ``\b``, repetitions,
``(?i)`` at the beginning. (https://github.com/google/re2/wiki/Syntax)
"""

import re
from dataclasses import dataclass
from functools import lru_cache

# RE2 refuses a larger count, and nested counts whose product is larger (its kMaxRepeat).
MAX_REPEAT = 1000
# RE2 instructions, by a rough upper estimate. Envoy is told to take many more (dataplane/envoy/bootstrap.py).
MAX_COST = 5000
_CLASS_COST = 12  # what `.` or a negated class comes to in UTF-8
_CLASSES = "dDwWsS"
_MEANING = set(r"\.+*?()|[]{}^$")
_CONTROL = {"t": "\t", "n": "\n", "r": "\r", "f": "\f", "v": "\v"}
_COUNT = re.compile(r"\{([0-9]{1,4})(,([0-9]{0,4}))?\}")


class BadExpression(ValueError):
    """``str()`` of it says what is wrong, and where."""


@lru_cache(maxsize=1024)
def compiled(expression: str) -> re.Pattern[str]:
    """For `fullmatch`, as Envoy matches. Raises BadExpression."""
    check(expression)
    return re.compile(expression, re.ASCII)


def check(expression: str) -> None:
    """Raises BadExpression for what one of the two engines refuses, or reads in another way than the other."""
    parser = _Parser(expression.removeprefix("(?i)"))
    cost = parser.alternatives()
    if parser.at < len(parser.text):
        raise parser.bad("a ')' without its '('")
    if cost.size > MAX_COST:
        raise BadExpression(f"too large: about {cost.size} instructions, and at most {MAX_COST} are taken")


@dataclass(frozen=True, slots=True)
class _Cost:
    size: int
    repeat: int = 1
    """Product of the nested counts."""


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.depth = 0

    def bad(self, why: str) -> BadExpression:
        return BadExpression(f"{why}, at character {self.at + 1} of {self.text[:80]!r}")

    def peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def take(self) -> str:
        one = self.peek()
        if not one:
            raise self.bad("it ends too early")
        self.at += 1
        return one

    def alternatives(self) -> _Cost:
        size, repeat = 0, 1
        while True:
            while self.peek() not in ("", "|", ")"):
                part = self.repeated()
                size, repeat = size + part.size, max(repeat, part.repeat)
            if self.peek() != "|":
                return _Cost(size + 1, repeat)
            self.at += 1
            size += 1

    def repeated(self) -> _Cost:
        begin = self.at
        atom, countable = self.atom()
        low, high = 1, 1
        if self.peek() and self.peek() in "*+?":
            low, high = 0, 1
            self.at += 1
        elif self.peek() == "{":
            low, high = self.count()
        else:
            return atom
        if not countable:
            self.at = begin
            raise self.bad("a position can't be repeated")
        if self.peek() == "?":
            self.at += 1
        if self.peek() and self.peek() in "*+?{":
            raise self.bad("a repetition of a repetition: put a group around it")
        times = max(low, high, 1)
        if atom.repeat * times > MAX_REPEAT:
            raise self.bad(f"repeated more than {MAX_REPEAT} times")
        return _Cost(atom.size * times + 2, atom.repeat * times)

    def count(self) -> tuple[int, int]:
        match = _COUNT.match(self.text, self.at)
        if match is None:
            raise self.bad(r"a '{' that begins no count such as {2} or {2,5}: write \{ for the character")
        low = int(match[1])
        high = low + 1 if match[2] == "," else int(match[3] or low)
        if high < low or high > MAX_REPEAT:
            raise self.bad(f"a count that is not from low to high, up to {MAX_REPEAT}")
        self.at = match.end()
        return low, high

    def atom(self) -> tuple[_Cost, bool]:
        one = self.take()
        if one in "^$":
            return _Cost(1), False
        if one == ".":
            return _Cost(_CLASS_COST), True
        if one == "(":
            return self.group(), True
        if one == "[":
            return self.char_class(), True
        if one == "\\":
            if self.peek() and self.peek() in "bB":
                self.at += 1
                return _Cost(1), False
            return _Cost(1 if self.escape() is not None else _CLASS_COST), True
        if one in "*+?{}]":
            self.at -= 1
            raise self.bad(f"a {one!r} that repeats or closes nothing: write \\{one} for the character")
        self.plain(one)
        return _Cost(2), True

    def plain(self, one: str) -> str:
        if not " " <= one <= "~":
            self.at -= 1
            raise self.bad("a character that is not printable ASCII")
        return one

    def group(self) -> _Cost:
        if self.peek() == "?":
            if not self.text.startswith("?:", self.at):
                raise self.bad("of groups with '?' only (?:…), and (?i) at the very beginning, are taken")
            self.at += 2
        self.depth += 1
        if self.depth > 50:
            raise self.bad("groups inside of groups, more than 50 deep")
        inner = self.alternatives()
        self.depth -= 1
        if self.peek() != ")":
            raise self.bad("a '(' without its ')'")
        self.at += 1
        return _Cost(inner.size + 2, inner.repeat)

    def escape(self) -> str | None:
        """The character that is meant; None for a class such as \\d."""
        one = self.take()
        if one in _CLASSES:
            return None
        if one in _CONTROL:
            return _CONTROL[one]
        if one == "x":
            digits = self.text[self.at : self.at + 2]
            if not re.fullmatch(r"[0-7][0-9A-Fa-f]", digits):
                raise self.bad("two hexadecimal digits below 80 belong after \\x")
            self.at += 2
            return chr(int(digits, 16))
        if one.isalnum() or not " " <= one <= "~":
            self.at -= 2
            raise self.bad(f"an escape \\{one} that the two engines don't share")
        return one

    def char_class(self) -> _Cost:
        if self.peek() == "^":
            self.at += 1
        before: str | None = None
        size, empty = 0, True
        while True:
            one = self.take()
            if one == "]" and not empty:
                return _Cost(max(size, _CLASS_COST))
            if one in "[]" or (one == self.peek() and one in "-&|~"):
                self.at -= 1
                raise self.bad(f"a {one!r} inside of [ ]: write \\{one} for the character")
            if one == "-" and not empty and self.peek() != "]":
                if before is None:
                    raise self.bad("a range that begins with no character")
                last = self.take()
                end = self.escape() if last == "\\" else self.plain(last)
                if end is None or last in "[]" or end < before:
                    raise self.bad("a range that is not from low to high")
                before = None
            else:
                before = self.escape() if one == "\\" else self.plain(one)
            size, empty = size + 2, False
