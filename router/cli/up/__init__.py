"""`sfr up`: runs a whole system on this machine, and the local workers that it may have.

It may not import downstream or app; it starts them.
"""
