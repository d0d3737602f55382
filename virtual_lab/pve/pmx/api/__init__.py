"""The API's calls, one module per subject; importing a module offers its calls."""

from __future__ import annotations

from . import access, cluster, nodes

__all__ = ["access", "cluster", "nodes"]
