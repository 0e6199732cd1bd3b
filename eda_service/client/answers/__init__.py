"""What the service answers, read tolerantly."""
