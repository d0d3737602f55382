"""Lab files, and what writes those of large virtual racks."""
