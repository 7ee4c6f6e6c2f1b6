"""[edge] A key set over HTTPS. No redirect is followed: an object names the place, and nobody else does."""

from collections.abc import Sequence

import trio

from authz.jwks import MAX_DOCUMENT_BYTES, InvalidKeys, public_keys
from controlplane.https_get import Network, get, web_context
from schemas.errors import InvalidInput, Problem, Unavailable

# For all of it; well within the life of the lock under which it is done.
FETCH_SECONDS = 6.0


async def fetch(uri: str, ca: str | None, refused: Sequence[Network], *, seconds: float = FETCH_SECONDS) -> str:
    """The keys, as `authz.jwks.public_keys` writes them. ca: PEM; None: the CAs of this host.

    Raises Unavailable, Unauthenticated (not who was meant), InvalidInput (the URL, the CAs, or no usable keys).
    """
    context = await web_context(ca, "jwksCa")
    try:
        with trio.fail_after(seconds):
            status, _, body = await get(uri, context, max_bytes=MAX_DOCUMENT_BYTES, refused=refused)
    except trio.TooSlowError:
        raise Unavailable(f"{uri} has not given its keys within {seconds:g} s") from None
    if status != 200:
        note = ": redirects are not followed" if 300 <= status < 400 else ""
        raise Unavailable(f"{uri} answers {status}{note}")
    try:
        return public_keys(body)
    except InvalidKeys as error:
        raise InvalidInput(Problem(uri, f"gives no usable keys: {error}")) from error
