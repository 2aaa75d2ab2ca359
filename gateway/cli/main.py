"""Reads the command line and the configuration, runs one command, turns an error into words and an exit code."""

from __future__ import annotations

import argparse
import asyncio
import resource
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from gateway.cli.context import Context, ExitCode, exit_code, report
from gateway.cli.parser import build_parser
from gateway.config import Config, load_config
from gateway.errors import GatewayError, OperatorError
from gateway.telemetry.logs import set_up_logging

#: Where ``demo`` keeps the configuration that it makes, so that every command with ``--state`` finds it again.
STATE_CONFIG = "config.toml"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    arguments = build_parser().parse_args(argv)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # software keys are in memory; a core file would put them on the disk
    try:
        context = _context(arguments)
        set_up_logging(context.config.gateway.log_level if arguments.serves else "warning")
        handler: Callable[[Context], Awaitable[int]] = arguments.handler
        return asyncio.run(_run(handler, context))
    except GatewayError as error:
        report(error, as_json=arguments.json)
        return exit_code(error)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has gone; there is nobody to tell
        return ExitCode.REFUSED
    except OSError as error:  # a directory of another user, a disk that is gone: a person needs words, not a traceback
        report(OperatorError(f"{error.filename or 'the system'}: {error.strerror or error}"), as_json=arguments.json)
        return ExitCode.REFUSED
    except KeyboardInterrupt:
        return 130  # 128 + SIGINT, as shells say it


async def _run(handler: Callable[[Context], Awaitable[int]], context: Context) -> int:
    return await handler(context)


def _context(arguments: argparse.Namespace) -> Context:
    """The configuration: ``--config``, else the one inside the state directory (a demo's), else the defaults."""
    state: Path | None = arguments.state.absolute() if arguments.state else None
    path: Path | None = arguments.config
    if path is None and state is not None and (state / STATE_CONFIG).exists():
        path = state / STATE_CONFIG
    config = load_config(path) if path is not None else Config()
    if state is not None:
        config = config.with_state(state)
    return Context(arguments, config, path, arguments.json)
