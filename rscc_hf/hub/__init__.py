"""Pushing models and data sets to the Hub: what goes there, what never does, and what would change."""
