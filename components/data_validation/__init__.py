"""Data validation: what the statistics of a run's images are held against, and what is done about each finding.

`findings` and `schema_file` are light and may be imported anywhere; `statistics` and `checks` import TFDV; `component`
and `executor` import TFX. Import what you need from its module: this file imports nothing.
"""
