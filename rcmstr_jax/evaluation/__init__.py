"""Evaluation: protocols that train a recogniser on an encoder, metrics, reports."""
