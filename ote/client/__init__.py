"""The typed client of every service: contexts, one connection policy, and watches that resume."""
