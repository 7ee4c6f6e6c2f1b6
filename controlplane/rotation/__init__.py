"""The CA's life at work: what etcd says, what follows from it, and the one who does it.

look      everything that a decision rests upon, read at one moment  [edge]
write     one step as one guarded transaction, under the lock  [edge]
steps     prepare, activate, give up, remove, start and end of a rotation  [edge]
external  keys that an external CA signs; another key-encryption key  [edge]
driver    takes the next step of a rotation as its gate opens; starts one in time  [edge]
expiry    log lines before something expires  [edge]

The decisions are `controlplane.ca.rotation`'s.
"""
