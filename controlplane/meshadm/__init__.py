"""`meshadm`, the operator's command line.

__main__    the command group and the process
commands/   one module a group of commands: arguments in, values out
manifests   files and directories -> objects  [edge]
connection  endpoints and an operator's identity  [edge]
client      the replicas' API, with failover  [edge]
apply       a change set sent, and waited for  [edge]
kinds       how people write a kind
render      values -> tables and plain values (pure)
output      tables, JSON, YAML and errors to the terminal  [edge]
"""
