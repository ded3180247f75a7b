"""OTE: a control plane for trees of edge clusters."""

__version__ = "0.1.0"
