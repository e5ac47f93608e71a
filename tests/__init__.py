"""Tests. unit/: one module at a time; integration/: with a real Valkey; system/: real programs; project/: files."""
