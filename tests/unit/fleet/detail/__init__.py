"""Unit tests of router.fleet.detail. They start no process."""
