"""Files: archives, fitted classifiers, locks, digests."""
