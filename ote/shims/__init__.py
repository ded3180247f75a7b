"""Shims of our own: adapters between a controller and one cluster. They share nothing but the contract in ote.api.shim."""
