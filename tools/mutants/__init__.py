"""Changes the decisions one by one and asks the tests: `make mutants`. What no test notices, no test holds.

Our own, because most of what it finds is a statement or half of a condition that nothing holds: mutmut 3 and cosmic-ray
leave out neither, and both know no Lua.
"""
