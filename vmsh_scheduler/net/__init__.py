"""HTTP in and out: the address guard and the client. Knows nothing of jobs."""
