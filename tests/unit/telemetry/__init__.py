"""Units of router.telemetry; no process, no socket to Redis."""
