"""Shims of our own: adapters between a controller and one cluster. What they share is the contract in ote.api.shim."""
