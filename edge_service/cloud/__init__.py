"""The cloud, as the edge sees it: the only client of it, and what its answers mean."""
