"""Tests that start a real Valkey and nothing else."""
