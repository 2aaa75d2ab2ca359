"""The key child: it keeps no secrets where others could read them, and never outlives its parent."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from gateway.keys.frames import HEADER, MAX_PAYLOAD, Code, Kind, PinQuery, TokenQuery, frame, to_json
from gateway.keys.generation import private_from_der
from gateway.keys.keeper import CHILD_MODULE
from gateway.keys.process import ChildFailure, ChildGone, ChildProcess
from gateway.keys.signer import KeySpec

FILLER = "gateway.keys.filler"


async def test_a_child_answers_in_order() -> None:
    child = await ChildProcess.spawn(FILLER)
    specs = [KeySpec.P256, KeySpec.RSA_2048, KeySpec.ED25519]
    answers = await asyncio.gather(*(child.call(Kind.MAKE, spec.value.encode(), deadline_s=60) for spec in specs))
    for spec, der in zip(specs, answers, strict=True):
        private_from_der(der, spec)
    assert (child.answers, child.busy) == (3, False)
    await child.close()
    assert child.gone.done()


async def test_a_killed_child_fails_everything_it_was_asked() -> None:
    child = await ChildProcess.spawn(FILLER)
    asked = [asyncio.create_task(child.call(Kind.MAKE, b"rsa-4096", deadline_s=60)) for _ in range(3)]
    await asyncio.sleep(0)
    await child.end("enough")
    for task in asked:
        with pytest.raises(ChildGone, match="enough"):
            await task
    with pytest.raises(ChildGone, match="enough"):
        await child.call(Kind.MAKE, b"p-256", deadline_s=60)


async def test_a_child_that_crashes_is_told_from_one_that_was_killed() -> None:
    child = await ChildProcess.spawn(FILLER)
    os.kill(child.pid, signal.SIGKILL)
    with pytest.raises(ChildGone, match="crashed"):
        await child.call(Kind.MAKE, b"rsa-4096", deadline_s=60)


async def test_a_child_past_its_deadline_is_killed() -> None:
    child = await ChildProcess.spawn(FILLER)
    os.kill(child.pid, signal.SIGSTOP)
    with pytest.raises(ChildGone, match=r"did not answer within 0\.2 s"):
        await child.call(Kind.MAKE, b"p-256", deadline_s=0.2)
    assert child.gone.done()


async def test_a_module_that_cannot_be_loaded_is_named() -> None:
    child = await ChildProcess.spawn(CHILD_MODULE)
    with pytest.raises(ChildFailure, match=r"/no/module\.so") as caught:
        await child.call(Kind.OPEN, to_json(TokenQuery("/no/module.so")), deadline_s=60)
    assert caught.value.code is Code.MODULE
    await child.close()


async def test_a_question_without_an_open_token_is_answered_with_a_failure() -> None:
    child = await ChildProcess.spawn(CHILD_MODULE)
    with pytest.raises(ChildFailure, match="no token is open"):
        await child.call(Kind.PROBE, deadline_s=60)
    await child.close()


@pytest.mark.parametrize("module", [FILLER, CHILD_MODULE])
async def test_a_child_leaves_no_core_dump_and_knows_only_a_descriptor_by_argument(module: str) -> None:
    child = await ChildProcess.spawn(module)
    with suppress(ChildFailure):  # that no token is open is an answer, too
        await child.call(Kind.MAKE if module == FILLER else Kind.PROBE, b"p-256", deadline_s=60)
    process = Path(f"/proc/{child.pid}")
    limits = next(line for line in (process / "limits").read_text().splitlines() if line.startswith("Max core"))
    assert limits.split()[4:6] == ["0", "0"]
    arguments = (process / "cmdline").read_bytes().decode().split("\0")
    assert arguments[1:4] == ["-P", "-m", module]
    assert arguments[4].isdigit()
    await child.close()


async def test_a_child_dies_with_its_parent_even_while_it_hangs() -> None:
    program = (
        "import asyncio, os, signal\n"
        "from gateway.keys.process import ChildProcess\n"
        "from gateway.keys.frames import Kind\n"
        "async def main():\n"
        f"    child = await ChildProcess.spawn({FILLER!r})\n"
        "    await child.call(Kind.MAKE, b'p-256', deadline_s=60)\n"
        "    os.kill(child.pid, signal.SIGSTOP)\n"
        "    print(child.pid, flush=True)\n"
        "    await child.call(Kind.MAKE, b'p-256', deadline_s=600)\n"
        "asyncio.run(main())\n"
    )
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE)
    assert parent.stdout is not None
    child = os.pidfd_open(int(await parent.stdout.readline()))
    parent.kill()
    await parent.wait()
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(child, ended.set)
    async with asyncio.timeout(60):
        await ended.wait()
    asyncio.get_running_loop().remove_reader(child)
    os.close(child)


def test_a_query_with_a_pin_does_not_show_it() -> None:
    assert "1234" not in repr(PinQuery("00", pin="1234"))


def test_a_frame_is_length_kind_payload() -> None:
    assert frame(Kind.SIGN, b"abc") == b"\x00\x00\x00\x03\x04abc"


async def test_a_child_without_free_descriptors_is_no_other_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted() -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(socket, "socketpair", exhausted)
    with pytest.raises(ChildGone, match="no key process can be started: Too many open files"):
        await ChildProcess.spawn(FILLER)


@pytest.mark.parametrize("answer", [frame(Kind.FAILED, b"\xff"), frame(Kind.FAILED, b"{}"), frame(Kind.FAILED, b"[]")])
async def test_an_answer_that_cannot_be_read_ends_the_child_and_leaves_nobody_waiting(answer: bytes) -> None:
    child = await ChildProcess.spawn(FILLER)
    asked = [asyncio.create_task(child.call(Kind.MAKE, b"rsa-4096", deadline_s=60)) for _ in range(2)]
    await asyncio.sleep(0)
    child._reader.feed_data(answer)  # what a child whose memory a module wrote over might say
    for task in asked:
        with pytest.raises(ChildGone, match="broke its protocol"):
            await task
    assert child.gone.done()


async def test_a_child_is_not_told_what_systemd_tells_the_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    watchdog, listening = ("WATCHDOG_PID", "WATCHDOG_USEC"), ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")
    for name in ("CREDENTIALS_DIRECTORY", "NOTIFY_SOCKET", *watchdog, *listening):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("VENDOR_CONFIGURATION", "needed")
    start, environments = asyncio.create_subprocess_exec, []

    async def noted(*command: str, env: dict[str, str], **options: Any) -> asyncio.subprocess.Process:
        environments.append(env)
        return await start(*command, env=env, **options)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", noted)
    child = await ChildProcess.spawn(FILLER)
    await child.close()
    (environment,) = environments
    assert "secret" not in environment.values()
    assert environment["VENDOR_CONFIGURATION"] == "needed"


async def test_a_child_nobody_waits_for_any_more_is_not_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    start, started = asyncio.create_subprocess_exec, []

    async def noted(*command: str, **options: Any) -> asyncio.subprocess.Process:
        started.append(await start(*command, **options))
        return started[0]

    monkeypatch.setattr(asyncio, "create_subprocess_exec", noted)
    for turns in range(5):  # cut off at each step of the start
        spawning = asyncio.create_task(ChildProcess.spawn(FILLER))
        for _ in range(turns):
            await asyncio.sleep(0)
        spawning.cancel()
        with pytest.raises(asyncio.CancelledError):
            await spawning
        for process in started:
            assert process.returncode is not None
        started.clear()


async def test_ending_a_child_is_carried_through_when_cancelled() -> None:
    child = await ChildProcess.spawn(FILLER)
    ending = asyncio.create_task(child.end("enough"))
    await asyncio.sleep(0)
    ending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ending
    assert child.gone.result() == "enough"


@pytest.mark.parametrize("answer", [frame(Kind.OK), HEADER.pack(MAX_PAYLOAD + 1, Kind.OK)])
async def test_an_answer_nobody_asked_for_or_without_end_ends_the_child(answer: bytes) -> None:
    child = await ChildProcess.spawn(FILLER)
    child._reader.feed_data(answer)
    assert await child.gone == "the key process broke its protocol"


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("fault", [OSError(errno.EAGAIN, "no process"), MemoryError("no memory")])
@pytest.mark.parametrize("step", ["open_connection", "create_subprocess_exec"])
async def test_a_start_that_fails_leaves_no_descriptor_and_tells_why(
    monkeypatch: pytest.MonkeyPatch, step: str, fault: Exception
) -> None:
    async def failing(*_: object, **__: object) -> None:
        raise fault

    before = descriptors()
    monkeypatch.setattr(asyncio, step, failing)
    told = ChildGone if isinstance(fault, OSError) and step == "create_subprocess_exec" else type(fault)
    with pytest.raises(told, match=os.strerror(errno.EAGAIN) if told is ChildGone else "no "):
        await ChildProcess.spawn(FILLER)
    for _ in range(3):  # a transport gives its socket back a turn later
        await asyncio.sleep(0)
    assert descriptors() == before


def test_whoever_asked_in_vain_is_told_when_to_come_again() -> None:
    for fault in (ChildGone("it crashed"), ChildFailure(Code.TOKEN, "it crashed")):
        assert (str(fault), fault.retry_after) == ("it crashed", 5)
