"""Authorization, below both planes: what the policies say about one port of a service, and about one request to it.

Sidecars compile it for Envoy, replicas and `meshadm` evaluate it offline: one model, so that they can't differ. Pure.

rules      policies ▸ the rules of one port, with the conditions that can never hold there and why
patterns   path patterns ▸ what is compared, narrowly for an ALLOW, widely for a DENY
paths      a request's path, as Envoy has it before anything judges it
judge      rules and a request ▸ a verdict: what decided, or the nearest miss
claims     what a policy can ask of a token
tokens     RequestAuthentication ▸ where tokens stand, and of what form they must be
jwks       the public keys of an issuer
key_sources  where they come from
verify     a token ▸ its claims, or what it is answered
peers      PeerAuthentication ▸ whether a port takes plaintext too
stored     whether a stored policy was understood in full
"""
