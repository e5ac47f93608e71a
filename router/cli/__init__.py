"""`sfr`: the commands, how they read their arguments, reach the fleet and show what they found.

It may not import downstream or app; the programs that it starts do.
"""
