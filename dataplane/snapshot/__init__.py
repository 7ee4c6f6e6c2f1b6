"""Second stage, pure: events ▸ the state of the mesh, what changed in it, and what is wrong with it."""
