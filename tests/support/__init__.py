"""Parts that tests share: programs, scripted workers, faults, and waiting."""
