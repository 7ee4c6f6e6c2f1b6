"""What both protocols of ADS have in common: one stream's conversation about a push. No IO, no clock."""

from abc import ABC, abstractmethod
from typing import Generic, TypeVar

from dataplane.ads.push import Push
from dataplane.ads.table import Change, ResourceTable
from dataplane.compile.resources import SECRET
from schemas.records import Nack

WILDCARD = "*"

Request = TypeVar("Request")
Response = TypeVar("Response")


class Session(ABC, Generic[Request, Response]):
    """Feed it every request, and every change of the table, in order; send what each call returns, in order."""

    def __init__(self, table: ResourceTable) -> None:
        self._push = Push(table)

    @abstractmethod
    def on_request(self, request: Request) -> list[Response]:
        """What a request of the client leads to: it subscribes, unsubscribes, acks and NACKs."""

    @abstractmethod
    def _responses(self) -> list[Response]:
        """What may be sent now, in this protocol's words."""

    def on_update(self, change: Change) -> list[Response]:
        """`change` is what `ResourceTable.apply` returned."""
        self._push.changed(change)
        return self._responses()

    def stop_waiting(self) -> list[Response]:
        """See `held_back_since`."""
        self._push.stop_waiting()
        return self._responses()

    @property
    def held_back_since(self) -> int | None:
        """See `Push.held_back_since`; whoever has a clock bounds how long it may stay the same."""
        return self._push.held_back_since

    @property
    def secrets_current(self) -> bool:
        """The client has acked the newest secrets that it subscribed to."""
        return self._push.is_current(SECRET)

    @property
    def acked_revision(self) -> int:
        """See `Push.acked_revision`."""
        return self._push.acked_revision

    @property
    def acked_sequence(self) -> int:
        """See `Push.acked_sequence`."""
        return self._push.acked_sequence

    @property
    def held_requests(self) -> frozenset[str]:
        """See `Push.held_requests`."""
        return frozenset(self._push.held_requests)

    @property
    def nacks(self) -> tuple[Nack, ...]:
        """See `Push.nacks`."""
        return self._push.nacks

    def _answer(self, type_url: str, nonce: str, refusal: str | None) -> None:
        """The client's answer to the response `nonce`, if it names one: an ack, or a NACK in its own words."""
        if not nonce:
            return
        if refusal is None:
            self._push.acknowledge(type_url, nonce)
        else:
            self._push.refuse(type_url, nonce, refusal)
