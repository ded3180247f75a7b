"""The only database code: a key-value store with group commit, on SQLite."""
