"""What one saved run has learned, and what is wrong with it: numbers, findings and a page."""
