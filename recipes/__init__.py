"""Complete jobs, each run by `python -m recipes.NAME`: `digits`, `demo` and `procedural_trunk`."""
