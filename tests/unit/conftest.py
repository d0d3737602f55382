"""What hypothesis is told for all unit tests."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# How long something takes on a machine that others use, too, is no outcome of a test.
settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")
