"""Decides how a job goes from its request to its answer: reading it, leases, attempts, retries, the log.

It may not import downstream, api or cli.
"""
