"""A job's way from its request to its answer: reading it, leases, attempts, the verdict, the log.

It may not import downstream, api or cli.
"""
