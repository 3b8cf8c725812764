"""Shared by several rooms: devices, types, turns, warnings, values that pickle."""
