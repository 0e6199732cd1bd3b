"""Chat templates: messages to token ids, rendered in a process of its own."""
