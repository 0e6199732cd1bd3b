"""The dispatcher: makes Ray match the rows, follows live jobs, and delivers webhooks."""
