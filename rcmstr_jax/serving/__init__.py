"""A recogniser as a web server: requests of all connections are read in common batches."""
