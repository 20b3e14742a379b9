"""Datasets: one schema, several sources, checked rows."""
