"""Composition roots, one per process: read settings, build, run."""
