# SPDX-License-Identifier: Apache-2.0
"""How a command finds the head: the options --dir, --head and --token that every speaking command has."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Concatenate, ParamSpec

import typer

from rookery.api.client import Client
from rookery.errors import ErrorKind, RookeryError
from rookery.head.config import DEFAULT_DIRECTORY, Paths

P = ParamSpec("P")

PANEL = "Which head"

Directory = Annotated[
    Path | None,
    typer.Option(
        "--dir",
        envvar="ROOKERY_DIR",
        help="The head's directory.",
        show_default=str(DEFAULT_DIRECTORY),
        rich_help_panel=PANEL,
        file_okay=False,
        readable=False,  # not asked here: the error of whoever reads in it says more
    ),
]
HeadUrl = Annotated[
    str | None,
    typer.Option(
        "--head",
        envvar="ROOKERY_HEAD",
        help="Speak to the head at this URL (http://10.0.0.1:8470) in place of the local one.",
        rich_help_panel=PANEL,
    ),
]
Token = Annotated[
    str | None,
    typer.Option(
        "--token",
        envvar="ROOKERY_TOKEN",
        help="The operator's token, or @FILE.",
        show_default="DIR/operator.token",
        rich_help_panel=PANEL,
    ),
]


def head_directory(directory: Path | None) -> Path:
    """The head's directory: as given, else $ROOKERY_DIR, else the default."""
    return directory or Path(os.environ.get("ROOKERY_DIR") or DEFAULT_DIRECTORY)


def connect(directory: Path | None = None, head: str | None = None, token: str | None = None) -> Client:
    """The client for a head. Raises RookeryError when there is no token to be had."""
    paths = Paths(head_directory(directory))
    secret = _token(token, paths, remote=bool(head))
    if head:
        if not head.startswith(("http://", "https://")):
            raise RookeryError(
                f"--head {head!r} is not a URL", kind=ErrorKind.INVALID, hint="as in http://10.0.0.1:8470"
            )
        return Client(secret, url=head.rstrip("/"))
    return Client(secret, socket=paths.socket)


def _token(token: str | None, paths: Paths, *, remote: bool) -> str:
    if token and not token.startswith("@"):
        return token
    path = Path(token[1:]) if token else paths.operator_token
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        if token:
            hint = "--token @FILE names a file with the operator's token"
        elif remote:
            hint = "give --token @FILE with a copy of the head's operator.token"
        else:
            hint = f"run 'rookery init --dir {paths.directory}', or name the head's directory with --dir"
        raise RookeryError(f"no operator token at {path}", kind=ErrorKind.NOT_FOUND, hint=hint) from None
    except PermissionError:
        raise RookeryError(
            f"not allowed to read {path}",
            kind=ErrorKind.FORBIDDEN,
            hint="run as root, or as the owner of the head's directory",
        ) from None


def speaks_to_head(function: Callable[Concatenate[Client, P], None]) -> Callable[..., None]:
    """The command `function` with the options --dir, --head and --token; its first argument becomes the client."""
    signature = inspect.signature(function, eval_str=True)
    kinds = {"directory": Directory, "head": HeadUrl, "token": Token}
    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)
        for name, kind in kinds.items()
    ]

    @functools.wraps(function)
    def command(*args: Any, directory: Path | None, head: str | None, token: str | None, **kwargs: Any) -> None:
        with connect(directory, head, token) as client:
            function(client, *args, **kwargs)

    parameters = [*list(signature.parameters.values())[1:], *more]
    # Typer reads a command's options from these two.
    command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    del command.__wrapped__
    return command
