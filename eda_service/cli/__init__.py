"""The `eda` command."""
