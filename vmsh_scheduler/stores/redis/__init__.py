"""Twins of the local stores in one shared Redis, Valkey or KVRocks: several instances, one leader."""
