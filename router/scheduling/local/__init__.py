"""Decides as the script in `scheduling/lua` does, over a state in this process: one module a decision, beside its Lua.

It reads no clock and draws no random number. It may not import what acts: leases, Redis, or another room's I/O.
"""
