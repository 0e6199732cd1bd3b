"""Commands that make jobs, look at them and stay with them."""
