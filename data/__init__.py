"""Name or path -> images, labels, class names."""
