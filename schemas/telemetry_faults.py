"""What a `Telemetry` contradicts itself in, beyond what its types can say. Pure.

Replicas refuse it on a write, and sidecars don't believe it in etcd.
"""

from collections.abc import Iterator

from schemas.checking import Fault
from schemas.objects.telemetry import CustomTag, TelemetrySpec, TracingProvider

# Headers that hold secrets, or whose value is for the app alone. A span goes to people who may not know either.
SECRET_HEADERS = frozenset(
    {"authorization", "cookie", "proxy-authorization", "set-cookie", "x-api-key", "x-forwarded-client-cert"}
)


def telemetry_faults(spec: TelemetrySpec) -> Iterator[Fault]:
    """Paths are below ``spec``."""
    if spec.tracing is None:
        return
    if spec.tracing.provider is not None:
        for fault in _provider(spec.tracing.provider):
            yield Fault(("tracing", "provider", *fault.path), fault.message, fault.remedy)
    names: set[str] = set()
    for index, tag in enumerate(spec.tracing.custom_tags):
        for fault in _tag(tag):
            yield Fault(("tracing", "customTags", index, *fault.path), fault.message, fault.remedy)
        if tag.name in names:
            yield Fault(("tracing", "customTags", index, "name"), f"{tag.name} is there already", "choose another name")
        names.add(tag.name)


def _provider(provider: TracingProvider) -> Iterator[Fault]:
    if provider.backend_ref is None and provider.address is None:
        yield Fault((), "says no collector", "write `backendRef`, or `address`")
    if provider.backend_ref is not None and provider.address is not None:
        yield Fault(("address",), "there is a `backendRef` too", "leave one of the two out")
    if provider.address is not None and not 1 <= int(provider.address.rpartition(":")[2]) <= 65535:
        yield Fault(("address",), "has no port from 1 to 65535", "write host:port")


def _tag(tag: CustomTag) -> Iterator[Fault]:
    if (tag.literal is None) == (tag.request_header is None):
        yield Fault((), "expected exactly one of `literal` and `requestHeader`", "say where its value comes from")
    if tag.request_header in SECRET_HEADERS:
        yield Fault(("requestHeader",), f"{tag.request_header} is not for spans: it holds secrets", "take another")
