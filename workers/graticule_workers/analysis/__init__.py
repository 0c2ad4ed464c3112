"""Analysis: from masks to numbers."""
