"""The main job, for real, on one machine without root: etcd, two replicas, a shop of services each with its sidecar.

python -m deploy.demo [--keep]

processes   child processes, each ended by its own handle
local_mesh  the mesh: what an operator does on real hosts, on loopback addresses
load        requests that go on while things are broken
scenario    what is shown, a line a check
"""
