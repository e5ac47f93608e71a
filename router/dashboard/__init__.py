"""The dashboard: its page, its event stream, and which numbers it shows.

It may not import jobs or api.
"""
