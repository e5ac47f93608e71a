"""What tests share: programs, scripted workers, faults, waiting."""
