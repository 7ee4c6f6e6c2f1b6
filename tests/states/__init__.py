"""Named states of a mesh, for golden files, replays and real Envoys.

build     short ways to write objects, endpoints, bundles and things that nobody can read
examples  the states themselves: `STATES`
"""
