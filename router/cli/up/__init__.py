"""`sfr up`: a whole system on this machine.

It may not import downstream or app; it starts them.
"""
