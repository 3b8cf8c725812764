"""Other libraries: each module imports the one optional dependency that it is about."""
