"""Imports the named libraries and sleeps: what a process holds that did nothing but load them. argv: modules..."""

import importlib
import sys
import time


def main() -> None:
    for name in sys.argv[1:]:
        importlib.import_module(name)
    print("ready", flush=True)
    time.sleep(3600)


if __name__ == "__main__":
    main()
