"""Measures the program beside its floor and its peers in one invocation; ratios count, absolute figures do not."""
