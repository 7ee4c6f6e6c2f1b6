"""State-of-the-world ADS, as gRPC's own clients speak it: discovery requests in, responses to send out."""

from envoy.service.discovery.v3 import discovery_pb2

from dataplane.ads.interest import Batch, Interest
from dataplane.ads.order import WILDCARD_TYPES
from dataplane.ads.push import Push
from dataplane.ads.table import Change, ResourceTable
from dataplane.compile.resources import SECRET
from schemas.records import Nack

WILDCARD = "*"


class SotwSession:
    """One stream of StreamAggregatedResources. Used as `DeltaSession` is.

    Listeners and clusters are sent as the full set each time, so that what is missing is gone; other types only as far
    as they changed, and what the client no longer names it no longer has.
    """

    def __init__(self, table: ResourceTable) -> None:
        self._push = Push(table)

    def on_request(self, request: discovery_pb2.DiscoveryRequest) -> list[discovery_pb2.DiscoveryResponse]:
        """Each request names the whole subscription, and may answer a response."""
        push = self._push
        interest = push.interest(request.type_url)
        if interest is None:
            return []
        if request.response_nonce:
            if request.HasField("error_detail"):
                push.refuse(request.type_url, request.response_nonce, request.error_detail.message)
            else:
                push.acknowledge(request.type_url, request.response_nonce)
        names = set(request.resource_names)
        # Without names: all, if the client has never named any; else it wants none any more.
        legacy = not names and request.type_url in WILDCARD_TYPES and (not interest.asked or interest.wildcard)
        wildcard = legacy or WILDCARD in names
        names.discard(WILDCARD)
        dropped = interest.names - names
        if dropped or (interest.wildcard and not wildcard):
            push.unsubscribe(request.type_url, dropped, wildcard=interest.wildcard and not wildcard)
        added = names - interest.names
        if added or not interest.asked or (wildcard and not interest.wildcard):
            push.subscribe(request.type_url, added, wildcard=wildcard)
        return self._responses()

    def on_update(self, change: Change) -> list[discovery_pb2.DiscoveryResponse]:
        """`change` is what `ResourceTable.apply` returned."""
        self._push.changed(change)
        return self._responses()

    def stop_waiting(self) -> list[discovery_pb2.DiscoveryResponse]:
        """See `held_back_since`."""
        self._push.stop_waiting()
        return self._responses()

    @property
    def held_back_since(self) -> int | None:
        """See `Push.held_back_since`; whoever has a clock bounds how long it may stay the same."""
        return self._push.held_back_since

    @property
    def secrets_current(self) -> bool:
        return self._push.is_current(SECRET)

    @property
    def acked_revision(self) -> int:
        """See `Push.acked_revision`."""
        return self._push.acked_revision

    @property
    def nacks(self) -> tuple[Nack, ...]:
        """See `Push.nacks`."""
        return self._push.nacks

    def _responses(self) -> list[discovery_pb2.DiscoveryResponse]:
        responses = []
        while batches := self._push.batches():
            for batch in batches:
                if batch.type_url not in WILDCARD_TYPES and not batch.resources:
                    # This protocol has no words for "gone" here: what is not sent is not there.
                    self._push.acknowledge(batch.type_url, batch.nonce)
                else:
                    interest = self._push.interest(batch.type_url)
                    assert interest is not None  # noqa: S101 - a batch is made for an interest
                    responses.append(_response(batch, interest))
        return responses


def _response(batch: Batch, interest: Interest) -> discovery_pb2.DiscoveryResponse:
    resources = {resource.key.name: resource for resource in batch.resources}
    if batch.type_url in WILDCARD_TYPES:
        kept = {name: resource for name, resource in interest.held.items() if name not in batch.removed}
        resources = kept | resources
    response = discovery_pb2.DiscoveryResponse(
        type_url=batch.type_url, nonce=batch.nonce, version_info=f"{batch.revision}.{batch.nonce}"
    )
    for _, resource in sorted(resources.items()):
        response.resources.add(type_url=batch.type_url, value=resource.body)
    return response
