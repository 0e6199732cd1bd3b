"""`eda demo`: one real adaptation from nothing to a served pair."""
