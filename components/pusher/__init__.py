"""Pusher: publishes a blessed model as the next version that model servers see."""
