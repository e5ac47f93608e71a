"""What benchmarks share: rigs, meters, simulated workers."""
