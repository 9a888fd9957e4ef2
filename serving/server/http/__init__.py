"""The HTTP port of the model server: REST, probes, metrics and the web page."""
