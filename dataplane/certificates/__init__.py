"""Certificates that others make, an ACME client say, and that objects name: read from files of this host, and again.

check    what two files hold ▸ a pair that fits together, or why not   (pure)
files    reads no file outside of the one directory                    [edge]
store    the last good pairs, for when the files are bad at a start    [edge]
keeper   looks again, keeps the last good, says what is wrong          [edge]
"""
