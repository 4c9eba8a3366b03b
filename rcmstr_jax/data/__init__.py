"""Word images in: record sources, decoding, and the Grain pipeline that batches them.

Every source (LMDB, folder, TFDS builder, renderer, mixture) is a random-access sequence of
`records.Record`; `sources.open_source` opens one by its spec; `pipeline` turns it into batches.
"""
