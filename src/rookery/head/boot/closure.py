# SPDX-License-Identifier: Apache-2.0
"""Run as a program of its own, by the interpreter that is to be packed: what do the node's modules import?

    python -IS closure.py REQUEST ANSWER

REQUEST is JSON {"entries": [module, ...], "without": [module, ...], "path": [directory, ...], "into": directory,
"shown": directory}. The entries are imported as the node will import them: `path` is searched after the standard
library, `without` is kept out. Everything that came along and is Python is compiled into `into`, laid out like one
directory of sys.path, under the file names it will have below `shown`. ANSWER is JSON {"modules": [name, ...],
"extensions": [[name, file, "package" or "module"], ...]}.

Standard library only, and nothing of Rookery: this process must hold nothing but what the entries import.
"""

import importlib
import importlib.machinery
import importlib.util
import json
import marshal
import os
import sys


def main(request_path: str, answer_path: str) -> None:
    """Import, compile, and write down what there is."""
    with open(request_path, encoding="utf-8") as file:
        request = json.load(file)
    sys.path[:] = [*sys.path[1:], *request["path"]]  # the first is this program's own directory
    for name in request["without"]:
        sys.modules[name] = None  # type: ignore[assignment]  # `import name` now raises ImportError
    for name in request["entries"]:
        importlib.import_module(name)
    modules, extensions = [], []
    for name in sorted(set(sys.modules) - {"__main__", *request["without"]}):
        path = _file_of(name)
        package = hasattr(sys.modules[name], "__path__")
        if path.endswith(tuple(importlib.machinery.EXTENSION_SUFFIXES)):
            extensions.append([name, path, "package" if package else "module"])
        elif path.endswith(".py"):
            modules.append(name)
            _compile(name, path, package, request["into"], request["shown"])
    with open(answer_path, "w", encoding="utf-8") as file:
        json.dump({"modules": modules, "extensions": extensions}, file)


def _file_of(name: str) -> str:
    """The file of a loaded module; empty when it is built into the interpreter."""
    if path := getattr(sys.modules[name], "__file__", None):
        return str(path)
    try:
        spec = importlib.util.find_spec(name)
    except (ValueError, ImportError):
        return ""
    return str(spec.origin) if spec else ""


def _compile(name: str, path: str, package: bool, into: str, shown: str) -> None:
    place = name.replace(".", "/") + ("/__init__" if package else "")
    with open(path, "rb") as file:
        source = file.read()
    # Without docstrings (a node has no help()) and asserts; the recorded file name is the node's, not the head's.
    code = compile(source, f"{shown}/{place}.py", "exec", dont_inherit=True, optimize=2)
    target = os.path.join(into, f"{place}.pyc")
    os.makedirs(os.path.dirname(target), exist_ok=True)
    with open(target, "wb") as file:
        # PEP 552, an unchecked hash: the node has no source to compare it with.
        file.write(importlib.util.MAGIC_NUMBER + (1).to_bytes(4, "little") + importlib.util.source_hash(source))
        # Through marshal twice: which references the first pass marks depends on what else this process holds.
        file.write(marshal.dumps(marshal.loads(marshal.dumps(code))))  # noqa: S302  # bytes of our own making


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
