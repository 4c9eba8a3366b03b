"""Tasks whose answer is a picture: text segmentation and text image super-resolution."""
