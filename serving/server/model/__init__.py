"""Models in memory: which versions are served, and how requests run on them."""
