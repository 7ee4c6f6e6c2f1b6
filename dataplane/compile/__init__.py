"""Third stage, pure: the state of the mesh ▸ what this sidecar's Envoy is to run.

compiler       units, which of them a change touches, the difference to before
scope          the services that this workload depends on
inbound        listeners that take mTLS for the app, and the authorization on them
outbound       the proxy port and the bound ports, and the routes behind them
reach          what routes add to that: the services and subsets that they lead to
route_actions, route_filters, route_match
               a rule ▸ an Envoy route; which rules count, and in which order, is said in `routing`
route_problems what of the routes leads nowhere
clusters       upstreams and their endpoints
authorization  AuthorizationPolicy ▸ RBAC
http, tls      the one builder of HTTP connection managers; transport sockets and secrets
resources      what comes out
"""
