"""Several packs over one base draft in one export."""
