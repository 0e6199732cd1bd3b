"""How files of a draft are written by those who publish drafts, and how they become a base draft of ours.

`read` reads a directory, `store` keeps what was read. `record.DialectRecord` says how the files were, to the byte, so
that a draft can be written back as it came: writing a dialect belongs here too, beside reading, from that record.
"""
