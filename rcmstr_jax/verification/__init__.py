"""Parity with published figures, and interrupted runs against uninterrupted ones."""
