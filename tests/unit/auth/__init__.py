"""Units of router.auth; no process, no socket to Redis."""
