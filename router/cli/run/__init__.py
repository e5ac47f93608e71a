"""`sfr run`: a file of jobs becomes a file of results.

It may not import downstream or app.
"""
