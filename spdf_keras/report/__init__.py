"""Reports runs beside the numbers that the paper prints, as one page."""
