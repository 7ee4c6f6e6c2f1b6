"""What a change set means, decided without IO: the values read from etcd are passed in, what to write is returned.

change      one put or delete, as asked for
known       what of etcd the decision rests on, and what will be there afterwards
references  which objects an object names
reads       what must be read to decide: O(change)
rules       one object against its surroundings
validate    a change set as a whole: all problems, not the first
plan        operations, guards and outcomes of one transaction
"""
