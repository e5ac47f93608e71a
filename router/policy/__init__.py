"""Decides from values alone: what an answer means, how long a job may take, whether to retry.

It has no I/O, clock, randomness or logging, and may not import any other room.
"""
