"""Unit tests of router.dashboard. They start no process."""
