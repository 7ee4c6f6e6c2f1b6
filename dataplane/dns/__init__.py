"""The mesh's DNS for the app of this host: names of services from the mesh, all other names from elsewhere.

    app ── query ─▶ server ─▶ messages: is it one? ─▶ zone: whose name is it? ─┬─ ours ────▶ names ─▶ state, else etcd
                                                                               └─ foreign ─▶ forward ─▶ other servers

`messages`, `zone` and `upstreams` are pure; dnspython reads and writes messages, and does no IO.
"""
