"""The ground floor: names, errors and the version that every room agrees on. Imports nothing of Graftline."""

__version__ = "0.1.0"
