"""What comes in: features of frozen modules, inputs in blocks, labels, tensors."""
