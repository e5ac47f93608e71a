"""Reads single parts of the fleet's present state, for people who look at one worker or process.

It reads only what was asked for, and nothing that jobs wait for.
"""
