"""First stage: etcd ▸ ordered events, by whole revision. `events` is pure, `follow` is the edge."""
