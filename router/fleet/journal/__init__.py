"""Decides what Redis holds of the past: events, failed jobs, and the history of the fleet's rates.

It may not decide anything about jobs or workers. A failure to write here harms neither.
"""
