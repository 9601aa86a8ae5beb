"""Images, labels, class names and masks of a data set, by its name or path."""
