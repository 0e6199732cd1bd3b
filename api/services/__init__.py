"""What the routes call: submission, queries, and the dispatcher that makes Ray match the rows."""
