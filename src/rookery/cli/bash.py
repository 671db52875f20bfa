# SPDX-License-Identifier: Apache-2.0
"""Completion in bash, which takes `base:latest` and `image=base` for several words: `rookery` gets the whole line, and
what bash takes for another word is cut off its answers. Files are offered where no completion of ours was asked."""

from __future__ import annotations

import shlex
from collections.abc import MutableMapping

import typer
from typer import _completion_classes, _completion_shared

from rookery.cli import complete

INSTRUCTION = "_ROOKERY_COMPLETE"
NO_FILES = ":"  # no name and no option

SCRIPT = r"""
%(complete_func)s() {
    local line="${COMP_LINE:0:COMP_POINT}" word cut="" answer
    word="${line##*[[:space:]]}"
    [[ $word == --*=* ]] && word="${word#*=}"
    if [[ $word != *[\"\']* ]]; then
        cut="${word%%"${word##*[$COMP_WORDBREAKS]}"}"
    fi
    COMPREPLY=()
    while IFS= read -r answer; do
        if [[ $answer == : ]]; then
            compopt +o default
        elif [[ -n $answer ]]; then
            COMPREPLY+=( "${answer#"$cut"}" )
        fi
    done < <( env COMP_LINE="$line" %(autocomplete_var)s=complete_bash "$1" )
}

complete -o default -F %(complete_func)s %(prog_name)s
"""


def use() -> None:
    """Let --install-completion, --show-completion and `_ROOKERY_COMPLETE=source_bash` give our script."""
    _completion_shared._completion_scripts["bash"] = SCRIPT  # noqa: SLF001 - Typer knows no other way
    _completion_classes.BashComplete.source_template = SCRIPT


def asked(environ: MutableMapping[str, str]) -> bool:
    """Whether this call is by our script; then the line stands in `environ` as Typer takes it from its own."""
    line = environ.get("COMP_LINE")
    if environ.get(INSTRUCTION) != "complete_bash" or line is None:
        return False
    count = len(_words(line))
    environ["COMP_WORDS"] = line
    environ["COMP_CWORD"] = str(count if not line or line[-1].isspace() else count - 1)
    return True


def finish() -> None:
    """After the answers: say that there are no others."""
    if complete.was_asked():
        typer.echo(NO_FILES)


def _words(line: str) -> list[str]:
    """The words of a line that may end within quotes."""
    lexer = shlex.shlex(line, posix=True)
    lexer.whitespace_split, lexer.commenters = True, ""
    words: list[str] = []
    try:
        while (word := lexer.get_token()) is not None:
            words.append(word)
    except ValueError:  # within quotes
        words.append(lexer.token)
    return words
