"""Measurements against peers, and over whole systems; see each module."""
