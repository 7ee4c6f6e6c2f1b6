"""The only writer of etcd.

ops       operations and guards of one transaction, as values (pure)
version   which etcd versions are good enough (pure)
etcd      get, list, transact, watch; etcd's errors become ours
requests  a write with its idempotency record, settled when the outcome is unknown
boards    what a replica keeps in memory of the mesh, fed by watches
"""
