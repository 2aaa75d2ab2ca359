"""A real Linux device for tests: Debian's kernel, busybox and openssl in QEMU, its console on a Unix socket, its storage ext4.

The initramfs is built once and kept (``ensure_guest_kernel`` in scripts/environment fetches the kernel). A guest boots in some
seconds without KVM. :meth:`Guest.cut` is a power cut: what was not on its disk is gone. The console asks for :data:`USER` and
:data:`PASSWORD`; ``/data`` is the disk, where the kernel writes back late, so that what nobody synced is lost for sure.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from urllib.parse import quote

from provisioning.device import Address, Setting

ROOT = Path(__file__).resolve().parents[2]
USER, PASSWORD = "root", "device"
DISK_MEGABYTES = 16
_MODULES = (
    "virtio/virtio_ring",
    "virtio/virtio",
    "virtio/virtio_pci_modern_dev",
    "virtio/virtio_pci_legacy_dev",
    "virtio/virtio_pci",
    "block/virtio_blk",
)
_INIT = """\
#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
for module in {modules}; do insmod /modules/$module.ko; done
mount -t ext4 -o commit=300 /dev/vda /data
echo 60000 >/proc/sys/vm/dirty_writeback_centisecs
hostname plc
exec init
"""
_INITTAB = """\
ttyS0::respawn:/sbin/getty -L 115200 ttyS0 vt100
::ctrlaltdel:/sbin/reboot
::shutdown:/bin/umount -a -r
"""


#: What only costs time without KVM is left out.
_COMMAND_LINE = (
    "console=ttyS0 quiet panic=-1 nokaslr cryptomgr.notests initcall_blacklist=crypto_kdf108_init "
    "no_timer_check tsc=unstable mitigations=off random.trust_cpu=on"
)


def _kernel() -> Path:
    """The folder of the unpacked kernel package."""
    command = ["bash", "-c", ". scripts/environment && ensure_guest_kernel"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert found.returncode == 0, found.stderr
    return Path(found.stdout.strip())


def _libraries(program: str) -> list[str]:
    said = subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout
    return [word for word in said.split() if word.startswith("/")]


def _build(kernel: Path, target: Path) -> None:
    openssl = shutil.which("openssl")
    assert openssl
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for folder in ("bin", "sbin", "etc", "proc", "sys", "dev", "data", "tmp", "root", "modules", "usr/bin"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        shutil.copy("/bin/busybox", root / "bin/busybox")
        for applet in subprocess.run(["/bin/busybox", "--list"], check=True, capture_output=True, text=True).stdout.split():
            for folder in ("bin", "sbin") if applet != "busybox" else ():
                (root / folder / applet).symlink_to("/bin/busybox")
        for file in (openssl, *_libraries(openssl)):
            place = root / file.lstrip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, place)
        for module in _MODULES:
            source = next(kernel.glob(f"lib/modules/*/kernel/drivers/{module}.ko"))
            shutil.copy(source, root / "modules" / source.name)
        (root / "init").write_text(_INIT.format(modules=" ".join(module.rpartition("/")[2] for module in _MODULES)))
        (root / "init").chmod(0o755)
        (root / "etc/inittab").write_text(_INITTAB)
        digest = subprocess.run(
            ["openssl", "passwd", "-6", "-stdin"], input=PASSWORD, check=True, capture_output=True, text=True
        ).stdout.strip()
        (root / "etc/passwd").write_text(f"{USER}:x:0:0::/root:/bin/sh\n")
        (root / "etc/shadow").write_text(f"{USER}:{digest}:19000:0:99999:7:::\n")
        (root / "etc/group").write_text("root:x:0:\n")
        with target.open("wb") as file:
            pack = "find . | busybox cpio -o -H newc 2>/dev/null"
            subprocess.run(["sh", "-c", pack], cwd=root, stdout=file, check=True)


def guest_image() -> tuple[Path, Path]:
    """Kernel and initramfs; built by whoever comes first, kept for as long as this file and the kernel stay as they are."""
    kernel = _kernel()
    version = hashlib.sha256(Path(__file__).read_bytes() + os.fsencode(next(kernel.glob("boot/vmlinuz-*")))).hexdigest()[:16]
    initramfs = kernel.parent / f"guest-{version}.cpio"
    with (kernel.parent / "guest.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not initramfs.exists():
            new = initramfs.with_suffix(".new")
            _build(kernel, new)
            new.rename(initramfs)
    return next(kernel.glob("boot/vmlinuz-*")), initramfs


async def console_open(path: Path, ended: Callable[[], bool]) -> None:
    """Until QEMU listens there; that the socket exists comes a moment before."""
    async with asyncio.timeout(60):
        while not ended():
            try:
                _, writer = await asyncio.open_unix_connection(path)
            except (FileNotFoundError, ConnectionRefusedError):
                await asyncio.sleep(0.01)
                continue
            writer.close()
            await writer.wait_closed()
            return
    raise AssertionError("QEMU ended")


class Guest:
    """One device, switched on with :meth:`power_on`."""

    def __init__(self, folder: Path, chip: str = "6f1d2c3b-0000-4000-8000-000000000001") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.chip = chip
        self.disk = folder / "disk.img"
        self.console = folder / "console"
        self._on: asyncio.Task[None] | None = None
        with self.disk.open("wb") as file:
            file.truncate(DISK_MEGABYTES << 20)
        subprocess.run(["mkfs.ext4", "-q", "-F", self.disk], check=True)
        (folder / "password").write_text(PASSWORD)

    @property
    def address(self) -> Address:
        return Address.parse(f"unix:{quote(str(self.console))}")

    @property
    def settings(self) -> dict[str, Setting]:
        """For the driver of Linux consoles."""
        return {
            "user": USER,
            "password": f"file:{self.folder / 'password'}",
            "directory": "/data/idevid",
            "listen_first": True,
            "attach_s": 120,
        }

    async def power_on(self) -> None:
        """Returns as soon as its console can be opened; who opens it waits for the login."""
        kernel, initramfs = await asyncio.to_thread(guest_image)
        arguments = (
            *("qemu-system-x86_64", "-M", "pc,accel=tcg", "-cpu", "max", "-m", "160", "-smp", "1", "-no-reboot"),
            *("-nodefaults", "-no-user-config", "-display", "none", "-uuid", self.chip),
            *("-kernel", str(kernel), "-initrd", str(initramfs), "-append", _COMMAND_LINE),
            *("-drive", f"file={self.disk},if=virtio,format=raw,cache=writeback"),
            *("-chardev", f"socket,id=console,path={self.console},server=on,wait=off", "-serial", "chardev:console"),
        )
        self._on = asyncio.create_task(self._run(arguments))
        await console_open(self.console, self._on.done)

    async def _run(self, arguments: tuple[str, ...]) -> None:
        """A reset ends QEMU, and a new one boots: a warm start without KVM takes a minute, as every page was code once."""
        while True:
            self.console.unlink(missing_ok=True)
            process = await asyncio.create_subprocess_exec(
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
            )
            try:
                assert await process.wait() == 0, "QEMU failed"
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()

    async def cut(self) -> None:
        """The current fails."""
        if self._on is not None:
            self._on.cancel()
            await asyncio.gather(self._on, return_exceptions=True)
        self._on = None

    @contextmanager
    def files(self) -> Iterator[Path]:
        """What is on its disk, while it is off."""
        assert self._on is None
        place = self.folder / "mounted"
        place.mkdir(exist_ok=True)
        for number in range(8):  # containers come without the loop devices
            if not Path(f"/dev/loop{number}").exists():
                os.mknod(f"/dev/loop{number}", 0o600 | 0o060000, os.makedev(7, number))
        subprocess.run(["mount", "-o", "loop", self.disk, place], check=True)
        try:
            yield place
        finally:
            subprocess.run(["umount", place], check=True)


@asynccontextmanager
async def powered(guest: Guest) -> AsyncIterator[Guest]:
    """The guest, on; cut at the end."""
    await guest.power_on()
    try:
        yield guest
    finally:
        await guest.cut()
