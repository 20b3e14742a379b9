"""Generating answers, scoring them, and saying what the scores show."""
