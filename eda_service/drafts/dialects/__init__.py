"""Dialects: the file formats in which drafts are published, and their conversion into base drafts of this project.

`read` reads a directory, `store` keeps what was read. `record.DialectRecord` describes the files to the byte, so that a
draft can be written back unchanged: the writer of a dialect stands here too (`write`) and uses that record.
"""
