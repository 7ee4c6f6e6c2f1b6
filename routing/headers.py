"""Headers by which sidecars tell one another something: no route changes them. Pure."""

UNSERVED = "x-mesh-unserved"
"""Of an answer by the sidecar itself, because its app gave none: how far the request came."""
