"""Units of router.config; no process, no socket to Redis."""
