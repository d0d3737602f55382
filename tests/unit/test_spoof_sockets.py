"""Broken, endless and mixed-up HTTP on the nodes' socket is cut off, tells nothing and keeps nobody waiting."""

from __future__ import annotations

from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
