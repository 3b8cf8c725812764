"""What several rooms share: devices, types, turns, values that pickle."""
