"""Tests of router/fleet/journal."""
