"""Paired tests, intervals, verdicts and claims."""
