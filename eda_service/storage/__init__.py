"""Files that are either complete and hashed or not there: atomic publish, shards, provenance, registry, run
directory.
"""
