# SPDX-License-Identifier: Apache-2.0
"""ssh's ProxyCommand: a connection that carries RATE bytes a second from there, and writes its process id to a file."""

import os
import select
import socket
import sys
import time
from pathlib import Path

host, port, rate, pid_file = sys.argv[1:]
Path(pid_file).write_text(str(os.getpid()))
with socket.create_connection((host, int(port))) as wire:
    came, began = 0, time.monotonic()
    while True:
        ready, _, _ = select.select([0, wire], [], [])
        if 0 in ready:
            if not (data := os.read(0, 1 << 16)):
                break
            wire.sendall(data)
        if wire in ready:
            if not (data := wire.recv(1 << 14)):
                break
            came += len(data)
            os.write(1, data)
            time.sleep(max(0.0, began + came / int(rate) - time.monotonic()))
