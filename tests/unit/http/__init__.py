"""Units of router.http; no process, no socket to Redis."""
