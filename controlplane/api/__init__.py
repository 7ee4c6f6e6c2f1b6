"""The gRPC API. Each call goes: caller ▸ authorize ▸ convert ▸ service ▸ store.

caller            who calls, from the listener and the verified certificate
authorize         one table: RPC path -> kinds of caller
convert           protobuf <-> our types; errors -> gRPC statuses
dispatch          the pipeline above, for every RPC alike
request_id        idempotency keys
issuing           the CA at work
change_set        read ▸ validate ▸ plan ▸ one guarded transaction
*_service         one module a gRPC service
"""
