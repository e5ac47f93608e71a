"""Decides which job gets which worker, and when: the scheduler, its Python twin, leases and pending jobs.

It may not import http, upstream or jobs: here a job is a number, its time limits and a callback.
"""
