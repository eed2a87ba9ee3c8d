"""An executor of which a worker dies, with what it was given to do."""

from __future__ import annotations

import os
import signal
import threading
import time

from concurrent.futures import Executor


class Killing(Executor):
    """Hands everything on; once armed, the next call costs a worker its life.

    With `delay`, it is stopped first, takes what it is given, and dies so many seconds later.
    """

    def __init__(self, executor, pid, delay=0.0):
        self.executor = executor
        self.pid = pid
        self.armed = False
        self.killed = threading.Event()
        self._delay = delay

    def arm_at(self, step):
        """Return a callback that arms it."""

        def callback(approx, losses, i):
            self.armed = self.armed or i == step

        return callback

    def submit(self, function, *arguments):
        if self.armed and self.pid is not None:
            os.kill(self.pid, signal.SIGSTOP)
            threading.Timer(self._delay, self._kill, (self.pid,)).start()
            self.pid = None
            if not self._delay:
                self.killed.wait(60)
                time.sleep(0.3)  # the executor finds out
        return self.executor.submit(function, *arguments)

    def _kill(self, pid):
        os.kill(pid, signal.SIGKILL)
        self.killed.set()
