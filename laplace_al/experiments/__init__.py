"""Loops with known labels: simulations, their results and displays."""
