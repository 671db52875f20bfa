# SPDX-License-Identifier: Apache-2.0
"""A bad cable: wire_process.py TO_ADDRESS TO_PORT PORT EVERY. Passes TCP connections on, and turns one bit of every
EVERY-th byte that comes back."""

import json
import socket
import sys
import threading


def pump(source: socket.socket, sink: socket.socket, every: int) -> None:
    passed = 0
    try:
        while data := bytearray(source.recv(65536)):
            if every:
                for place in range((-passed - 1) % every, len(data), every):
                    data[place] ^= 1
            passed += len(data)
            sink.sendall(data)
    except OSError:
        pass
    for end in (source, sink):
        end.close()


address, port, here, every = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
listener = socket.create_server(("", here))
print(json.dumps({"ready": True}), flush=True)
while True:
    near, _ = listener.accept()
    far = socket.create_connection((address, port))
    threading.Thread(target=pump, args=(near, far, 0), daemon=True).start()
    threading.Thread(target=pump, args=(far, near, every), daemon=True).start()
