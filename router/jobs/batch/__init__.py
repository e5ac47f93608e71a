"""Many jobs in one request: each line is a job, each answer a line.

It may not import downstream, api or cli.
"""
