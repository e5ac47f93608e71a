"""Unit tests of the sidecar. They start no process."""
