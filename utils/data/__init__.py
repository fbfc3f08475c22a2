"""Reads and makes the data: images, classes, domains, batches."""

UNLABELLED = -1  # the class of an image whose class is not known
