"""Results: scores, named protocols and what was published for them, tables, curves, panels, pages."""
