"""One router per resource; a route validates, calls one service and returns a model."""
