"""The operations of the API as values: what is sent and how the answer is read."""
