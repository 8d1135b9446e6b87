"""Use cases: what a command does, from names to files. Resumable, with progress."""
