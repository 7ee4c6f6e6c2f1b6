"""The keys of token issuers: RequestAuthentications say where they are published, sidecars have them from etcd.

places    which objects name which places; as etcd's watch tells  [edge]
decide    what is to be done about one place
fetch     gets a key set over HTTPS  [edge]
follower  does it, one replica at a time  [edge]

What counts as a key is `authz.jwks`'s to say.
"""
