"""State-of-the-world ADS, as gRPC's own clients speak it: discovery requests in, responses to send out."""

from envoy.service.discovery.v3 import discovery_pb2

from dataplane.ads.interest import Batch, Interest
from dataplane.ads.order import WILDCARD_TYPES
from dataplane.ads.session import WILDCARD, Session


class SotwSession(Session[discovery_pb2.DiscoveryRequest, discovery_pb2.DiscoveryResponse]):
    """One stream of StreamAggregatedResources.

    Listeners and clusters are sent as the full set each time, so that what is missing is gone; other types only as far
    as they changed, and what the client no longer names it no longer has.
    """

    def on_request(self, request: discovery_pb2.DiscoveryRequest) -> list[discovery_pb2.DiscoveryResponse]:
        """Each request names the whole subscription, and may answer a response."""
        push = self._push
        interest = push.interest(request.type_url)
        if interest is None:
            return []
        refusal = request.error_detail.message if request.HasField("error_detail") else None
        self._answer(request.type_url, request.response_nonce, refusal)
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
