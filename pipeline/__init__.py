"""Postroom: what EnableX knows about finished video sessions, kept, counted and proved."""

__version__ = "0.1.0"
