"""What can go wrong in issuing, beyond bad input."""

from schemas.errors import MeshError, Unavailable


class AuthorityExpired(Unavailable):
    """The CA that would sign has expired or is about to: it signs nothing more."""


class NoAuthority(Unavailable):
    """There is no active key for a role, or it can't be opened with this host's key-encryption key."""


class TwoActiveKeys(MeshError):
    """Two keys of one role claim to be active: somebody wrote past us. Nothing is signed until that is settled."""


class Miscreated(MeshError):
    """A certificate that we made is not what its template says. It was thrown away; this is a defect of ours."""
