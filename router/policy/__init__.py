"""Decides from values alone: what an answer means, how long a job may take, what is tried again.

No I/O, clock, randomness or logging; it knows no other room.
"""
