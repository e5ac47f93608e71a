"""Units of router.api; no process, no socket to Redis."""
