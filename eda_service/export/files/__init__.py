"""The files of an export: what they hold, how they are written and read back."""
