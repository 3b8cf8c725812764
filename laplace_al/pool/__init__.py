"""A pool of instances under a classifier: its checks, features and scores."""
