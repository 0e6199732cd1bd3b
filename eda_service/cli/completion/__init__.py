"""What a shell offers at the end of a line."""
