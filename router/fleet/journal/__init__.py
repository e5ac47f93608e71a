"""Decides what Redis holds of the past: events, failed jobs, and the history of the fleet's rates.

It may import what the rest of fleet may.
"""
