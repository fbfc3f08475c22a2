"""Starts several local processes of a training script, as one cluster on loopback.

python -m utils.run.workers 2 train_MNIST2MNIST_M.py --epoch 5

The first worker's output is shown. When it ends, or another one fails, the others get a minute
to end by themselves and are then stopped. The exit code is that of the first one that failed.
"""

from __future__ import annotations

import json
import math
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from utils.errors import UserError, run_script

GRACE = 60.0  # seconds: TensorFlow notices a lost worker by a health check every 30


def free_ports(count: int) -> list[int]:
    """Returns ports on loopback that nobody listens on just now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def start(count: int, command: list[str], quiet: bool = False) -> list[subprocess.Popen[bytes]]:
    """Starts the workers; each learns its place from TF_CONFIG. Only the first may speak."""
    addresses = [f"127.0.0.1:{port}" for port in free_ports(count)]
    workers = []
    for index in range(count):
        task = {"type": "worker", "index": index}
        place = json.dumps({"cluster": {"worker": addresses}, "task": task})
        output = subprocess.DEVNULL if quiet or index else None
        workers.append(
            subprocess.Popen(
                [sys.executable, *command, "--strategy", "multi_worker"],
                env={**os.environ, "TF_CONFIG": place},
                stdout=output,
                stderr=output,
                start_new_session=True,  # so that Ctrl-C comes once, from here
            )
        )
    return workers


def wait(workers: list[subprocess.Popen[bytes]]) -> int:
    """Waits until all have ended and returns the first failure's exit code, or 0."""
    deadline = math.inf
    failed = 0
    while None in (codes := [worker.poll() for worker in workers]):
        failed = failed or next((code for code in codes if code), 0)
        if failed or codes[0] is not None:  # it writes figures when the others have ended
            deadline = min(deadline, time.monotonic() + GRACE)
        if time.monotonic() > deadline:
            print("a worker has ended and the others hang; stopping them", file=sys.stderr)
            for worker in workers:
                worker.kill()
                worker.wait()
        time.sleep(0.1)
    return failed or next((code for code in codes if code), 0)


def main() -> int:
    if len(sys.argv) == 1 or sys.argv[1] in ("-h", "--help"):
        print(__doc__)
        return 0
    count, script = [*sys.argv[1:3], "", ""][:2]
    if not (count.isdecimal() and int(count) and Path(script).is_file()):
        raise UserError(
            f"{shlex.join(sys.argv[1:])}: name how many workers, 1 or more, and a script that is "
            "there, as in: python -m utils.run.workers 2 train_MNIST2MNIST_M.py --epoch 5"
        )
    workers = start(int(count), sys.argv[2:])

    def pass_on(number: int, _: object) -> None:
        for worker in workers:
            worker.send_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, pass_on)  # the workers save and end
    return wait(workers)


if __name__ == "__main__":
    run_script(main)
