"""Federation: our trust bundle for others to fetch, and theirs for our sidecars.

endpoint      serves the mesh's bundle over HTTPS: `https_web` or `https_spiffe`  [edge]
certificates  what it serves with: files that are read again when they change, or the replica's own SVID  [edge]
fetch         gets a bundle over HTTPS, from whoever proves to be who was meant  [edge]
look          what etcd says of each federated trust domain, at one moment  [edge]
decide        what is to be done about one of them
follower      does it, one replica at a time  [edge]

Whether a fetched document is taken is `spiffe.federation`'s to say.
"""
