# SPDX-License-Identifier: GPL-2.0-or-later
"""``enforcer``: the command line.

An expected failure is one sentence and one hint, and its exit code tells scripts what kind it was; a
traceback is for those who ask for it. Verbs import what they stand on (rich, the policy, the kernel part)
when they run, so ``explain`` works on a machine where the rest is broken.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO, cast

from enforcer import __version__
from enforcer.cli.client import SOCKET
from enforcer.cli.output import Output
from enforcer.cli.verbs import Verb
from enforcer.model.errors import EnforcerError, Exit
from enforcer.model.escape import for_terminal

VERBS = (
    "audit",
    "explain",
    "who",
    "status",
    "drain",
    "fence",
    "sanlock",
    "policy",
    "config",
    "doctor",
    "witness",
    "version",
)
_INTERRUPTED = 128 + 2
_PIPE_CLOSED = 128 + 13


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code."""
    options = parser().parse_args(arguments)
    debug = bool(getattr(options, "debug", False))
    options.socket = getattr(options, "socket", SOCKET)
    verb: Verb = options.module
    try:
        code = verb.run(options, Output())
        sys.stdout.flush()
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        # Whatever is still buffered would raise again when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _PIPE_CLOSED
    except EnforcerError as error:
        if debug:
            traceback.print_exc()
        complain(error, sys.stderr)
        return int(error.exit_code)
    except Exception as error:
        if debug:
            raise
        unexpected = EnforcerError(
            f"this should not have happened: {type(error).__name__}: {error}",
            hint="the same command with --debug shows where; please report it",
        )
        complain(unexpected, sys.stderr)
        return int(Exit.FAILURE)
    return int(code)


def complain(error: EnforcerError, stream: TextIO) -> None:
    """One sentence, one hint. Only lists of mistakes have more lines."""
    for line in str(error).splitlines() or [type(error).__name__]:
        stream.write(f"enforcer: {for_terminal(line, 2048)}\n")
    if error.hint:
        stream.write(f"  hint: {for_terminal(error.hint, 2048)}\n")


def parser() -> argparse.ArgumentParser:
    """The whole command line, for ``main`` and for the tests of the manual page."""
    common = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    common.add_argument("--socket", type=Path, metavar="PATH", help=f"the daemon's socket, if not {SOCKET}")
    common.add_argument("--debug", action="store_true", help="show tracebacks")
    top = argparse.ArgumentParser(
        prog="enforcer",
        description="Who mounts what on this cluster node, who may not, and why.",
        epilog="example: mount /dev/sdb1 /srv; enforcer explain last",
        parents=[common],
    )
    top.add_argument("--version", action="version", version=f"enforcer {__version__}")
    verbs = top.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name in VERBS:
        module = cast(Verb, importlib.import_module(f"enforcer.cli.verbs.{name}"))
        sub = verbs.add_parser(
            name,
            help=module.SUMMARY,
            description=module.SUMMARY[:1].upper() + module.SUMMARY[1:] + ".",
            epilog=f"example: {module.EXAMPLE}",
            parents=[common],
        )
        module.arguments(sub)
        sub.set_defaults(module=module)
    return top


if __name__ == "__main__":
    sys.exit(main())
