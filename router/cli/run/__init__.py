"""`sfr run`: sends a file of jobs to a router and writes a file of results.

It may not import downstream or app.
"""
