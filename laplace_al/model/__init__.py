"""The mathematics: torch, numpy and scipy only."""
