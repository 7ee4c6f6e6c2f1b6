"""The pace of what replicas fetch, one replica at a time: bundles of trust domains, keys of token issuers."""

# Between two looks when nothing is due: what changes is told by etcd's watch.
IDLE_SECONDS = 60.0
# Another replica is at it, or etcd does not answer.
AGAIN_SECONDS = 2.0
# Of one server after the other nobody waits for the slowest; of very many at once, no host gets too busy.
AT_ONCE = 8
# Somebody who asks waits for a replica that is at it just now.
ASKED_SECONDS = 8.0
