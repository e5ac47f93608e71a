"""Tests that read the repository's files: import rules, docs, deployments."""
