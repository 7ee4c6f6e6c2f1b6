"""What Envoy runs, what the model says, and how they differ; for whoever looks at a sidecar on its own host.

running  Envoy's config dump ▸ resources, and what it refused
differ   two sets of resources ▸ their differences, in words
model    [edge] the sidecar's files ▸ state and compiler, as the agent has them
origin   resource ▸ the objects that it came from
words    resources ▸ one short description each
view     [edge] the commands `config` and `diff`
"""
