"""`sfr status` and `sfr workers`: the commands that show the fleet or change it.

It may not import downstream or app.
"""
