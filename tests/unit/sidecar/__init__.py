"""Units of sidecar; no process, no socket to Redis."""
