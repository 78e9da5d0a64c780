"""Layers and losses on fastgrad's kernels, each a subclass of torch's of the same name."""
