"""Delta ADS, as Envoy speaks it: discovery requests in, the responses to send out. No IO, no clock."""

from envoy.service.discovery.v3 import discovery_pb2

from dataplane.ads.interest import Batch
from dataplane.ads.order import WILDCARD_TYPES
from dataplane.ads.session import WILDCARD, Session


class DeltaSession(Session[discovery_pb2.DeltaDiscoveryRequest, discovery_pb2.DeltaDiscoveryResponse]):
    """One stream of DeltaAggregatedResources (xDS protocol, "Incremental xDS")."""

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
        refusal = request.error_detail.message if request.HasField("error_detail") else None
        self._answer(request.type_url, request.response_nonce, refusal)
        if subscribed or first:
            push.subscribe(
                request.type_url,
                subscribed - {WILDCARD},
                wildcard=legacy_wildcard or WILDCARD in subscribed,
                holds=dict(request.initial_resource_versions) if first else None,
            )
        return self._responses()

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
