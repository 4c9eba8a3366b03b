"""Heads that answer every pixel: text segmentation and text image super-resolution."""
