"""Buckets of tokens for what Envoy tells of some requests only: so many a second, however many there are.

Envoy takes them from xDS alone, as files of the agent's here; they never change.
"""

import json
from typing import Any, Literal

from envoy.config.accesslog.v3 import accesslog_pb2
from envoy.config.core.v3 import config_source_pb2
from envoy.extensions.access_loggers.filters.process_ratelimit.v3 import process_ratelimit_pb2

from dataplane.compile.tls import packed

Bucket = Literal["reads", "others", "denied", "limited"]
# Tokens a second, in a process.
A_SECOND: dict[Bucket, int] = {
    # Samples of requests (flow_samples): each is some 30 µs of the agent's time, and more of Envoy's; all of them two
    # thousandths of a core.
    "reads": 10,
    "others": 10,
    "denied": 10,
    # Lines of what rate limits refuse: a caller may go on for days, and the log still reaches back for a day.
    "limited": 1,
}
# After a quiet time: who tries something out sees all of it.
BURST = 100


def file_name(of: Bucket) -> str:
    return f"{_name(of)}.json"


def bucket(of: Bucket) -> bytes:
    """The file of a bucket, as Envoy reads it (envoy.service.discovery.v3.DiscoveryResponse)."""
    tokens = {
        "@type": "type.googleapis.com/envoy.type.v3.TokenBucket",
        "max_tokens": BURST,
        "tokens_per_fill": A_SECOND[of],
        "fill_interval": "1s",
    }
    wrapped: dict[str, Any] = {
        "@type": "type.googleapis.com/envoy.service.discovery.v3.Resource",
        "name": _name(of),
        "version": "1",
        "resource": tokens,
    }
    return json.dumps({"version_info": "1", "resources": [wrapped]}).encode()


def _name(of: Bucket) -> str:
    return f"samples-{of}"


def takes_token(into: accesslog_pb2.AccessLogFilter, of: Bucket, directory: str) -> None:
    """What finds a token there, and takes it: to be asked last. directory: with the files of the buckets."""
    limit = process_ratelimit_pb2.ProcessRateLimitFilter()
    limit.dynamic_config.resource_name = _name(of)
    source = limit.dynamic_config.config_source
    source.resource_api_version = config_source_pb2.ApiVersion.V3
    source.path_config_source.path = f"{directory}/{file_name(of)}"
    into.extension_filter.name = "envoy.access_loggers.extension_filters.process_ratelimit"
    into.extension_filter.typed_config.CopyFrom(packed(limit))
