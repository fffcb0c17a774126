"""The keeper of the trials: parent of the process that forks them, and the one who ends what they left when that one is killed.

Run as `python -m autotune.trial.keeper FD PID MODULE…`, for the study's process PID; it starts `autotune.trial.zygote` with the
same words and then only waits. Three processes stand above a trial, and any one of them may be killed: where the study's or the
zygote dies, the keeper ends all below it; where the keeper dies, the zygote does. The study's process adopts no orphans itself:
it has other children, and could not tell whose an orphan is. On stdout the keeper names what it could not end.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from autotune.trial.descendants import adopt_orphans, end_descendants, signal_at_parents_death

_WAKING = (signal.SIGTERM, signal.SIGCHLD)
_WITHIN_S = 8.0
"""Less than its parent waits for it."""


def main() -> None:
    """Waits until the zygote or the study's process has ended, or SIGTERM comes; then nothing is left below this process."""
    adopt_orphans()
    descriptor, parent = int(sys.argv[1]), int(sys.argv[2])
    words = [sys.executable, "-m", "autotune.trial.zygote", str(descriptor), str(os.getpid()), *sys.argv[3:]]
    zygote = subprocess.Popen(words, pass_fds=[descriptor], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    os.close(descriptor)  # the study's process sees by the socket that the zygote has gone
    # Blocked only now, for a child inherits it. A signal that came before ends this process, and so the zygote.
    signal.pthread_sigmask(signal.SIG_BLOCK, _WAKING)
    wanted = signal_at_parents_death(signal.SIGTERM, parent)
    while wanted and os.waitpid(zygote.pid, os.WNOHANG) == (0, 0):
        wanted = signal.sigwait(_WAKING) != signal.SIGTERM
    left = end_descendants(within_s=_WITHIN_S)
    sys.stdout.write(" ".join(str(process.pid) for process in left))
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
