"""Postroom: EnableX call records and recordings, collected, archived, reported and billed."""

__version__ = "0.1.0"
