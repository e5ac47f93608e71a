"""Decides which job gets which worker, and when: the scheduler, its model, leases, pending jobs.

It may not import http, upstream or jobs: a job is an id, its time limits and who waits for it.
"""
