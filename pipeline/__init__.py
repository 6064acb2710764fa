"""Postroom: collect EnableX call records and recordings; archive, report and bill from them."""

__version__ = "0.1.0"
