"""Scripts that checks run on a node by its own python3: each stands alone."""
