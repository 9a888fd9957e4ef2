"""Pretrains the trunk that ships with Graftline, on drawings."""
