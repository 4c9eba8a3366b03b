"""Labelled words, decoders with their alphabets, and the recogniser: trained, saved, reading."""
