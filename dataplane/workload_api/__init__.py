"""The SPIFFE Workload API: the app's own identity, on a Unix socket, for whoever the kernel says is the app.

    app ──h2──▶ server ──call──▶ service ──▶ messages ──▶ server ──h2──▶ app
                  │ SO_PEERPIDFD     │ callers           ▲
                  ▼                  ▼                   │ current
                peer ──facts──▶ matches?         svid (own key) · tokens · bundles ◀── replica, etcd

server, peer, svid, tokens and api (the wiring) do IO; callers, proc, wire and messages are pure.
"""
