"""Results: scores, tables beside the published numbers, curves, panels, pages."""
