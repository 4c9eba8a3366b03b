"""Words with an answer for every pixel: text segmentation and text image super-resolution.

`sources.open_dense` opens a set by its spec; each gives `words.DenseWord` by number.
"""
