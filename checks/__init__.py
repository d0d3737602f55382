"""Proving: one file per subject; each check asserts one thing about one machine, link or pair."""
