"""Tests that read the files of the repository: laws, docs, deployments."""
