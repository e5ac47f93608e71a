"""Units of router.scheduling; no process, no socket to Redis."""
