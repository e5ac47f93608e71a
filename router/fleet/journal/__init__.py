"""Decides how it is kept what has happened in the fleet: events.

It may not decide anything about jobs or workers. A failure to write here harms neither.
"""
