"""``make bench-edge``: the edge beside its models alone, OpenCV, and a bare FastAPI route, in one run."""
