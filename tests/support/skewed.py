"""A clock that is moved under a running program: a library that is loaded before its own."""

import struct
import subprocess
from pathlib import Path

SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static volatile double *moved;
static int (*real)(clockid_t, struct timespec *);
__attribute__((constructor)) static void begin(void) {
  real = dlsym(RTLD_NEXT, "clock_gettime");
  const char *path = getenv("MOVED_BY");
  int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
  void *map = fd < 0 ? MAP_FAILED : mmap(0, 8, PROT_READ, MAP_SHARED, fd, 0);
  if (map != MAP_FAILED) moved = map;
}
int clock_gettime(clockid_t clock, struct timespec *ts) {
  if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
  int done = real(clock, ts);
  if (done == 0 && moved && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) ts->tv_sec += (long)*moved;
  return done;
}
time_t time(time_t *to) {
  struct timespec ts;
  clock_gettime(CLOCK_REALTIME, &ts);
  if (to) *to = ts.tv_sec;
  return ts.tv_sec;
}
int gettimeofday(struct timeval *tv, void *zone) {
  struct timespec ts;
  (void)zone;
  clock_gettime(CLOCK_REALTIME, &ts);
  if (tv) { tv->tv_sec = ts.tv_sec; tv->tv_usec = ts.tv_nsec / 1000; }
  return 0;
}
"""


class Skew:
    """`exe` goes before the program's own words; `move` counts from the true time. Needs gcc."""

    def __init__(self, place: Path) -> None:
        place.mkdir(parents=True, exist_ok=True)
        code, library, self._by = place / "moved.c", place / "moved.so", place / "moved-by"
        code.write_text(SOURCE)
        subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", library, code, "-ldl"], check=True)
        self.move(0)
        self.exe = ("env", f"LD_PRELOAD={library}", f"MOVED_BY={self._by}")

    def move(self, seconds: float) -> None:
        """In place: the program has it mapped."""
        with self._by.open("r+b" if self._by.exists() else "w+b") as file:
            file.write(struct.pack("d", seconds))
