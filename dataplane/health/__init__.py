"""Whether the own app is well: its sidecar asks it, and its instance is in discovery only while it is."""
