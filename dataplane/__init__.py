"""The sidecar. Read it in this order, which is the way a change takes:

watch ▸ snapshot ▸ compile ▸ ads ▸ envoy        agent.py wires them
identity, registration, status                  what the sidecar is, and says of itself
"""
