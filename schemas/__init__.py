"""What is stored and said: objects, names, keys, codec. No behaviour, no IO.

names    a name or SPIFFE ID is parsed once, and typed from then on
objects  what an operator writes, one module a kind
records  what the planes write about themselves: endpoints, status, tokens, keys
keys     etcd key <-> what it holds; the only place that knows the layout
codec    value <-> canonical MessagePack, YAML, JSON Schema
errors   the error tree: whose fault, which object, which field, what to do
api      the gRPC API of the replicas (protobuf)
"""
