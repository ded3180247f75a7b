"""Decisions of the local shim, pure: events and the time go in, changes to store and effects to carry out come out."""
