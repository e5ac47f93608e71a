"""`sfr status`, `add`, `drain` and the other commands that look at the fleet or change it.

It may not import downstream or app.
"""
