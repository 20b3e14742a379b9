"""Greedy completions, their scores, and what chance allows to be said about them."""
