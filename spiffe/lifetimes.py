"""When in its life a certificate is renewed: sidecars renew by it, and replicas judge by it who could have. Pure.

Times are seconds since 1970.
"""

# Sidecars that joined together don't renew together, and half the lifetime is left for replicas to come back.
RENEWAL_SHARE = 0.5
RENEWAL_JITTER = 0.05
# A try that fails is repeated after at most this: a sixtieth of a life of less than an hour, so that it has as many.
RETRY_SHARE = 1 / 60
FIRST_RETRY_SECONDS = 1.0  # a replica that restarts is back in about that time
MAX_RETRY_SECONDS = 60.0  # one request a minute and sidecar is no load, and healing is noticed within a minute


def renewal_at(not_before: float, expires: float, fraction: float) -> float:
    """The moment of the first try; `fraction` in [0, 1] is drawn once a certificate."""
    lifetime = max(0.0, expires - not_before)
    return not_before + lifetime * (RENEWAL_SHARE - RENEWAL_JITTER + 2 * RENEWAL_JITTER * fraction)


def longest_retry(lifetime: float) -> float:
    """Seconds between two tries, at most."""
    return max(FIRST_RETRY_SECONDS, min(MAX_RETRY_SECONDS, lifetime * RETRY_SHARE))
