"""The active-learning loop: the learner, its history, its journal, when to stop."""
