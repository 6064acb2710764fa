"""Requests days from EnableX and lands the responses; computes which days are missing and when a day is settled.

Parsing responses belongs in `tables`; when a collection runs belongs in `jobs`.
"""
