"""Changes the code that decides, one small change (a mutant) at a time, and runs the tests: `make mutants`.

If no test fails, no test covers what was changed. This is our own program because most of its finds are statements and
parts of conditions that can be left out. mutmut 3 and cosmic-ray leave out neither, and do not know Lua.
"""
