"""Units of router.upstream; no process, no socket to Redis."""
