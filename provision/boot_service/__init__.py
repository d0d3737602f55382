"""What a node talks to over HTTP while it is installed; it hands out what the harness rendered."""
