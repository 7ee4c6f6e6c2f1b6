"""etcd from Debian's archive: private apt directories, Debian's own signature, no root, nothing installed.

Debian stable carries releases whose access control can be bypassed, so the packages come from a later suite. They need
no more than libc, whose version is checked before anything is downloaded.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.etcd.fetch import Fetched, UnavailableError, run
from deploy.etcd.versions import Version, format_version, parse_version

SUITE = "forky"  # the oldest Debian suite with an etcd that is not known to be bad
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
SOURCES = Path("/etc/apt")

_PACKAGES = ("etcd-server", "etcd-client")
_INDEX_SECONDS = 180  # 10 MB of index over a slow line
_DOWNLOAD_SECONDS = 300  # 18 MB of packages over a slow line
_LOCAL_SECONDS = 60  # reading an index, unpacking 60 MB

# A source that offers one of these, with component main, is a mirror of Debian's main archive and so has SUITE too:
# security and backports archives name their suites otherwise, and derivatives have other code names. Whether it is
# really Debian's archive, its signature decides.
_DEBIAN_SUITES = frozenset(["bookworm", "trixie", "forky", "duke", "sid", "oldstable", "stable", "testing", "unstable"])


def fetch(work: Path, minimum: Version | None, environ: Mapping[str, str], report: Callable[[str], None]) -> Fetched:
    """Download and unpack the newest etcd of SUITE into `work`. `minimum` None accepts any version.

    Raises UnavailableError.
    """

    def check(offered: Mapping[str, str]) -> None:
        _check_version(offered, minimum)

    unpacked = fetch_packages(work, SUITE, _PACKAGES, environ, report, check)
    binaries = work / "bin"
    binaries.mkdir()
    for name in ("etcd", "etcdctl"):
        (unpacked.root / "usr" / "bin" / name).rename(binaries / name)
    return Fetched(binaries, unpacked.name)


@dataclass(frozen=True)
class Unpacked:
    """Packages unpacked side by side below `root`; `name` tells the first one's version and architecture."""

    root: Path
    name: str


def fetch_packages(
    work: Path,
    suite: str,
    packages: Sequence[str],
    environ: Mapping[str, str],
    report: Callable[[str], None],
    check: Callable[[Mapping[str, str]], None] = lambda offered: None,
) -> Unpacked:
    """Download `packages` of Debian's `suite`, without what they depend on, and unpack them somewhere in `work`.

    `check` gets the fields of the first package before anything but the index is downloaded, and raises
    UnavailableError where it is not good enough. Raises UnavailableError.
    """
    path = environ.get("PATH", os.defpath)
    for tool in ("apt-get", "apt-cache", "dpkg-deb"):
        if shutil.which(tool, path=path) is None:
            raise UnavailableError(f"{tool} is not on PATH: not a Debian system")
    if not KEYRING.is_file():
        raise UnavailableError(f"{KEYRING} is missing: install debian-archive-keyring")
    mirrors = list(dict.fromkeys(debian_mirrors(SOURCES)))
    if not mirrors:
        raise UnavailableError(f"no source under {SOURCES} is a mirror of Debian's main archive")
    reasons: list[str] = []
    for number, mirror in enumerate(mirrors):
        try:
            report(f"apt: asking {_without_password(mirror)} for {packages[0]} of {suite}")
            return _fetch_from(mirror, suite, packages, work / str(number), environ, check)
        except UnavailableError as why:
            reasons.append(_without_password(f"{mirror}: {why}"))
    raise UnavailableError("; ".join(reasons))


def _fetch_from(
    mirror: str,
    suite: str,
    packages: Sequence[str],
    work: Path,
    environ: Mapping[str, str],
    check: Callable[[Mapping[str, str]], None],
) -> Unpacked:
    config = _private_apt(work, mirror, suite)
    env = {**environ, "LC_ALL": "C"}
    run("apt-get update", ["apt-get", "-c", str(config), "-q", "update"], env, _INDEX_SECONDS, work)
    offered = run("apt-cache show", ["apt-cache", "-c", str(config), "--no-all-versions", "show", packages[0]],
                  env, _LOCAL_SECONDS, work)  # fmt: skip
    fields = parse_stanza(offered)
    check(fields)
    _check_libc(fields, suite)
    run("apt-get download", ["apt-get", "-c", str(config), "-q", "download", *packages], env, _DOWNLOAD_SECONDS, work)
    root = work / "root"
    for package in sorted(work.glob("*.deb")):
        run("dpkg-deb", ["dpkg-deb", "-x", str(package), str(root)], env, _LOCAL_SECONDS, work)
    return Unpacked(root, f"debian-{fields.get('Version', 'unknown')}-{fields.get('Architecture', 'unknown')}")


def _private_apt(work: Path, mirror: str, suite: str) -> Path:
    for directory in ("state/lists/partial", "cache/archives/partial"):
        (work / directory).mkdir(parents=True)
    (work / "status").touch()
    # Only the package index: no translations, no appstream data and icons, no diffs.
    options = f"signed-by={KEYRING} target=Packages lang=none pdiffs=no"
    (work / "sources.list").write_text(f"deb [{options}] {mirror} {suite} main\n")
    # Given with -c, this is read after the system's own configuration: its proxies stay in force, its hooks (which
    # clean the system's caches) do not run. Sandbox user: as root, apt would else download as _apt, who may not write
    # here.
    config = work / "apt.conf"
    config.write_text(
        "#clear APT::Update;\n"
        "#clear DPkg;\n"
        f'Dir::Etc::SourceList "{work}/sources.list";\n'
        'Dir::Etc::SourceParts "/dev/null";\n'
        'Dir::Etc::Preferences "/dev/null";\n'
        'Dir::Etc::PreferencesParts "/dev/null";\n'
        f'Dir::State "{work}/state";\n'
        f'Dir::State::status "{work}/status";\n'
        f'Dir::Cache "{work}/cache";\n'
        'APT::Sandbox::User "";\n'
        'APT::Update::Error-Mode "any";\n'  # a mirror that does not answer is an error, not a warning
    )
    return config


def _check_version(offered: Mapping[str, str], minimum: Version | None) -> None:
    version = parse_version(offered.get("Version", ""))
    if minimum is not None and version < minimum:
        raise UnavailableError(f"{SUITE} has only etcd {format_version(version)}, older than {format_version(minimum)}")


def _check_libc(offered: Mapping[str, str], suite: str) -> None:
    needs = re.search(r"\blibc6 \(>= (\d+)\.(\d+)", offered.get("Depends", ""))
    have = _glibc()
    if needs is not None and have < (int(needs[1]), int(needs[2])):
        raise UnavailableError(
            f"{offered.get('Package')} {offered.get('Version')} of {suite} needs glibc {needs[1]}.{needs[2]}, "
            f"this system has {have[0]}.{have[1]}"
        )


def _glibc() -> tuple[int, int]:
    try:
        name = os.confstr("CS_GNU_LIBC_VERSION") or ""  # "glibc 2.36"
    except (ValueError, OSError):
        name = ""
    found = re.search(r"(\d+)\.(\d+)", name)
    return (int(found[1]), int(found[2])) if found else (0, 0)  # no glibc at all: nothing built for it runs


def debian_mirrors(directory: Path) -> Iterator[str]:
    """URIs of Debian's main archive in an apt configuration directory, in apt's order."""
    files = [directory / "sources.list", *sorted((directory / "sources.list.d").glob("*"))]
    for file in files:
        try:
            text = file.read_text(errors="replace")
        except OSError:
            continue  # missing, or with a password in it and not ours to read
        if file.suffix == ".list":
            yield from _from_one_line_style(text)
        elif file.suffix == ".sources":
            yield from _from_deb822_style(text)


def _from_one_line_style(text: str) -> Iterator[str]:
    for line in text.splitlines():
        words = re.sub(r"\[[^]]*\]", " ", line.partition("#")[0]).split()
        if len(words) >= 4 and words[0] == "deb" and words[2] in _DEBIAN_SUITES and "main" in words[3:]:
            yield words[1]


def _from_deb822_style(text: str) -> Iterator[str]:
    without_comments = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for paragraph in re.split(r"\n\s*\n", without_comments):
        fields = parse_stanza(paragraph)
        words = {name.lower(): value.split() for name, value in fields.items()}
        if words.get("enabled") == ["no"] or "deb" not in words.get("types", []):
            continue
        if _DEBIAN_SUITES.intersection(words.get("suites", [])) and "main" in words.get("components", []):
            yield from words.get("uris", [])


def parse_stanza(text: str) -> dict[str, str]:
    """The first ``Field: value`` paragraph in Debian's control syntax; continuation lines are joined."""
    fields: dict[str, str] = {}
    name = ""
    for line in text.strip().splitlines():
        if not line.strip():
            break
        if line[0].isspace():
            if name:
                fields[name] += f" {line.strip()}"
        else:
            name, _, value = line.partition(":")
            fields[name] = value.strip()
    return fields


def _without_password(text: str) -> str:
    """`text` with the user and password of every URI in it left out."""
    return re.sub(r"//[^/@\s]*@", "//", text)
