"""How a host proves what it may be: one interface, one module a way."""
