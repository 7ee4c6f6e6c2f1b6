"""Delta ADS, as Envoy speaks it: discovery requests in, the responses to send out. No IO, no clock."""

from envoy.service.discovery.v3 import discovery_pb2

from dataplane.ads.interest import Batch
from dataplane.ads.order import WILDCARD_TYPES
from dataplane.ads.push import Push
from dataplane.ads.table import Change, ResourceTable
from dataplane.compile.resources import SECRET
from schemas.records import Nack

WILDCARD = "*"


class DeltaSession:
    """One stream of DeltaAggregatedResources (xDS protocol, "Incremental xDS").

    Feed it every request, and every change of the table, in order; send what each call returns, in order.
    """

    def __init__(self, table: ResourceTable) -> None:
        self._push = Push(table)

    def on_request(self, request: discovery_pb2.DeltaDiscoveryRequest) -> list[discovery_pb2.DeltaDiscoveryResponse]:
        """A request may subscribe, unsubscribe, and answer a response, all at once. Unknown types are left unanswered,
        which the protocol takes as "none exist"."""
        push = self._push
        interest = push.interest(request.type_url)
        if interest is None:
            return []
        subscribed, unsubscribed = set(request.resource_names_subscribe), set(request.resource_names_unsubscribe)
        first = not interest.asked
        legacy_wildcard = first and not subscribed and request.type_url in WILDCARD_TYPES
        if unsubscribed:
            push.unsubscribe(request.type_url, unsubscribed - {WILDCARD}, wildcard=WILDCARD in unsubscribed)
        if request.response_nonce:
            if request.HasField("error_detail"):
                push.refuse(request.type_url, request.response_nonce, request.error_detail.message)
            else:
                push.acknowledge(request.type_url, request.response_nonce)
        if subscribed or first:
            push.subscribe(
                request.type_url,
                subscribed - {WILDCARD},
                wildcard=legacy_wildcard or WILDCARD in subscribed,
                holds=dict(request.initial_resource_versions) if first else None,
            )
        return self._responses()

    def on_update(self, change: Change) -> list[discovery_pb2.DeltaDiscoveryResponse]:
        """`change` is what `ResourceTable.apply` returned."""
        self._push.changed(change)
        return self._responses()

    def stop_waiting(self) -> list[discovery_pb2.DeltaDiscoveryResponse]:
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

    def _responses(self) -> list[discovery_pb2.DeltaDiscoveryResponse]:
        return [_response(batch) for batch in self._push.batches()]


def _response(batch: Batch) -> discovery_pb2.DeltaDiscoveryResponse:
    response = discovery_pb2.DeltaDiscoveryResponse(
        type_url=batch.type_url,
        nonce=batch.nonce,
        system_version_info=str(batch.revision),
        removed_resources=batch.removed,
    )
    for resource in batch.resources:
        entry = response.resources.add(name=resource.key.name, version=resource.version)
        entry.resource.type_url = batch.type_url
        entry.resource.value = resource.body
    return response
