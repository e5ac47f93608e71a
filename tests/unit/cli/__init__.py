"""Units of router.cli; no process, no socket to Redis."""
