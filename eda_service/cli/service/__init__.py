"""Commands about the service itself: start, stop, look after it, and its keys."""
