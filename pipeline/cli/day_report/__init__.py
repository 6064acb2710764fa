"""One day as one HTML page: facts, page, style."""
