"""Which rule of which route serves a request: one model for the sidecar's compiler and for people who ask offline.

Pure, and below both planes.

expressions  the regular expressions that Envoy (RE2) and Python read the same way
check        what a route must hold beyond its schema
conditions   one match of a rule, and whether a request fulfils it
table        the routes of one service port as a caller sees them, in Gateway API's order of precedence
backends     where a rule sends requests, with shares, and what of it is missing
requests     a request as Envoy sees it
names        the host names and the port that a URL may mean a service by
explain      all of that for one request, in words
"""
