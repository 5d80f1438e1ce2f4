"""Holds so many MB, touched, and then is our daemon. argv: megabytes, arguments of vmsh-scheduler..."""

import sys

from vmsh_scheduler.__main__ import main

if __name__ == "__main__":
    ballast = bytearray(int(sys.argv[1]) << 20)
    ballast[::4096] = b"x" * len(ballast[::4096])
    sys.argv[1:] = sys.argv[2:]
    main()
