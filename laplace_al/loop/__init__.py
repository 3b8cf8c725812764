"""The active-learning loop: the learner, its record, its journal, when to stop."""
