"""What is asked of sidecars and what they answer: records that live for seconds, under one lease. Times in seconds.

meshadm ─▶ replica ─▶ data/questions/<id> ─▶ sidecars ─▶ any replica ─▶ control/answers/<id>/… ─▶ that replica
"""

import re
from collections.abc import Iterator
from typing import Annotated, Literal, get_args

import msgspec

from schemas.errors import Problem
from schemas.objects.common import Name
from schemas.records import Record

About = Literal["request", "flows"]

# Callers may choose them: what is longer is no id, and what JSON escapes would not be found in a log.
REQUEST_ID_PATTERN = r"^[A-Za-z0-9._:=/+@~-]{1,200}\Z"
_REQUEST_ID = re.compile(REQUEST_ID_PATTERN)

MAX_SERVICES = 1000
"""That a question may name; more are all."""
MAX_ENTRIES = 16
"""Of one request in one log: it may come back to a service, and be tried again."""
MAX_ENTRY_BYTES = 16 * 1024
"""Of one line: an URL may have 8 KiB."""
MAX_ANSWER_BYTES = 384 * 1024
"""Below what a stored value may have (`codec.MAX_VALUE_BYTES`): all `MAX_ENTRIES` of the longest fit."""


class FlowRecord(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Requests of one kind that a sidecar has seen samples of. Times are seconds since 1970."""

    source: str
    """SPIFFE ID of the caller; empty: it came in plaintext."""
    port: str
    """Name of the service's port."""
    method: str
    route: str
    """The path; ``{*}`` where a part looks like an id."""
    path: str
    """Of the newest one."""
    authority: str = ""
    address: str = ""
    """Of the host that the newest one came from."""
    denied: bool = False
    rule: str = ""
    """That let the newest one in, or denied it: ``shop/web-may[0]``."""
    samples: int = 1
    first: int
    last: int


class Question(Record, frozen=True, kw_only=True, tag="Question"):
    """To the sidecars of `services` (``NAME.NAMESPACE``; none: to all)."""

    id: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}\Z", description="32 hexadecimal digits")]
    about: str
    """An `About`; what a sidecar does not know it answers with a problem."""
    services: tuple[str, ...] = ()
    request_id: str = ""
    max_bytes: int = MAX_ANSWER_BYTES
    """Of one answer: who asks many can take less from each."""


def question_faults(question: Question) -> Iterator[Problem]:
    """What a replica puts to no sidecar."""
    if question.about not in get_args(About):
        known = ", ".join(get_args(About))
        yield Problem("question", f"about {question.about!r}", "about", f"ask about one of: {known}")
    if question.about == "request" and not _REQUEST_ID.fullmatch(question.request_id):
        remedy = "give the request's x-request-id: 1 to 200 characters, without spaces"
        yield Problem("question", f"{question.request_id[:80]!r} is no request id", "request_id", remedy)


class Answer(Record, frozen=True, kw_only=True, tag="Answer"):
    """Of one sidecar."""

    service: Name
    namespace: Name
    instance: Name
    looked_at: str = ""
    """For people: where it looked, and how far back that reaches."""
    entries: tuple[str, ...] = ()
    """Lines of its access log."""
    problem: str = ""
    """Why it could not look; empty: it could."""
    flows: tuple[FlowRecord, ...] = ()
    """Newest first."""
    since: int = 0
    """Since when flows are gathered, in seconds since 1970: since the agent runs."""
    omitted: int = 0
    """Samples that could not be kept, flows that gave way to newer ones, as often as one did, and those that there was
    no room for in the answer."""
    audits: dict[str, int] = msgspec.field(default_factory=dict)
    """What rules of AUDIT policies would have denied since Envoy has started, by rule: ``shop/try[0]``."""
