"""What is kept in files: archives, fitted classifiers, locks, digests."""
