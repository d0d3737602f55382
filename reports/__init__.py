"""Telling: what happened, from the run's events and outcomes alone; nothing here talks to a machine."""
