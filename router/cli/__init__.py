"""`sfr`: the commands.

It may not import downstream or app; the programs that it starts do.
"""
