"""Units of router.fleet; no process, no socket to Redis."""
