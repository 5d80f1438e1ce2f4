"""Keeps the agenda, decides, carries runs out, settles them. Keeps nothing a store could keep."""
