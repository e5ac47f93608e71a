"""Parts that benchmarks share: rigs, meters, simulated workers."""
