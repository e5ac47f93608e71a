"""Units of router.dashboard; no process, no socket to Redis."""
