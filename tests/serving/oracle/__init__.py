"""Attacks on a live server, and what is measured of the server meanwhile.

Tests and `benchmarks.attacks` share it. The server, its attacker and its honest clients are processes of their own.
"""
