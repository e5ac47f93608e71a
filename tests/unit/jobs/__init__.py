"""Units of router.jobs; no process, no socket to Redis."""
