"""The commit protocol as an explicit-state model, and the search that tries to break it."""
