"""Units of router.downstream; no process, no socket to Redis."""
