"""Decides how the fleet stands in Redis: workers, their health, operators' intent, the leading sidecar, counters.

It is the only room that knows the Redis client. It may not import scheduling, http or jobs.
"""
