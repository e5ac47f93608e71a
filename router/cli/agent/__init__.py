"""`sfr agent`: keeps one worker running on a host, and registered.

It may not import downstream or app.
"""
