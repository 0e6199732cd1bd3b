"""Commands about prompt files."""
