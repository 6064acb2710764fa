"""Asking EnableX for a day and storing the reply; which days are missing, and when a day is settled.

What a reply contains belongs to `tables`; when a collection runs belongs to `jobs`.
"""
