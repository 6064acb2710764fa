"""The HTML report of one day: facts, page, style."""
