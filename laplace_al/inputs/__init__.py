"""Inputs of all kinds: features of frozen modules, blocks, labels, tensors."""
