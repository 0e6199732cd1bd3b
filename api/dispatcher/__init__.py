"""The dispatcher: makes Ray and Serve match the database, follows live jobs, and delivers webhooks."""
