"""A time-stamping authority, for the modules that ask for one."""

from tests.support.fixtures import authorities, tsa

__all__ = ["authorities", "tsa"]
