"""The only writer of etcd.

ops             operations and guards of one transaction, as values (pure)
version         which etcd versions are good enough (pure)
server_version  which version a server is
etcd            get, list, transact, watch; etcd's errors become ours
requests        a write with its idempotency record, settled when the outcome is unknown
follow          a prefix, listed and watched for ever
boards          what a replica keeps in memory of the mesh, fed by `follow`
status_writer   what sidecars report, in batches
"""
