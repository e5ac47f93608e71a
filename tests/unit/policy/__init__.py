"""Units of router.policy; no process, no socket to Redis."""
