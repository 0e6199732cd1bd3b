"""Storage of files that are either complete and hashed or absent: atomic publish, shards, provenance, registry, run
directory.
"""
