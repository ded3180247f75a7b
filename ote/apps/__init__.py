"""Composition roots, one per process: read settings, build, supervise."""
