"""What a process says about itself: logs, metrics and the small HTTP server that shows them.

Not here: what is worth saying (the components). The one idea: names of metrics are data in one catalog, from which
the objects and docs/metrics.md are made.
"""
