"""Where a data set's raw files may lie under ``root``, and how missing ones are fetched."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from graphattn.datasets.files import DOWNLOAD, fetch, hidden_folder, need_file, reading


class Remote(NamedTuple):
    """One raw file and its public address.

    Attributes:
        path: Where it lies, relative to ``root``.
        url: Where it is published; empty if this form is not published.
        member: Its name inside the zip archive at ``url``; empty when ``url`` is the file itself.
        optional: The set loads without it.
    """

    path: str
    url: str = ""
    member: str = ""
    optional: bool = False


def obtain(
    name: str, root: str | Path, forms: Sequence[Sequence[Remote]], *, download: bool
) -> list[Path]:
    """Finds the raw files of a set in one of its forms, or downloads them.

    Args:
        name: Data set name for the messages.
        root: The folder that holds the sets; written to only when something is downloaded.
        forms: Folder layouts accepted, the preferred one first.
        download: Fetch missing files of the form that is most complete.

    Returns:
        The files of one form in its order; optional ones may be absent.

    Raises:
        FileNotFoundError: If a file is missing and was not downloaded; names file, folder, remedy.
        ValueError: If a downloaded archive is damaged or lacks a file.
    """
    root = Path(root)
    for form in forms:
        if not _missing(root, form):
            return [root / remote.path for remote in form]
    form = max(forms, key=lambda form: sum((root / remote.path).is_file() for remote in form))
    needed = _missing(root, form)[0]
    if not (download and needed.url):
        need_file(root / needed.path, name, _remedy(needed, root, forms))
    wanted = [remote for remote in form if remote.url and not (root / remote.path).is_file()]
    for url in dict.fromkeys(remote.url for remote in wanted):
        _download(name, url, root, [remote for remote in wanted if remote.url == url])
    return [root / remote.path for remote in form]


def _missing(root: Path, form: Sequence[Remote]) -> list[Remote]:
    return [item for item in form if not (item.optional or (root / item.path).is_file())]


def _remedy(needed: Remote, root: Path, forms: Sequence[Sequence[Remote]]) -> str:
    others = [form[0].path for form in forms if form[0].path != needed.path]
    text = f"put it there, or pass the root= under which {needed.path} lies"
    text += "".join(f", or {path}" for path in others)
    inside = f" (as {needed.member})" if needed.member else ""
    return text + (f"; {DOWNLOAD} fetches it from {needed.url}{inside}" if needed.url else "")


def _download(name: str, url: str, root: Path, remotes: list[Remote]) -> None:
    """Fetches into a hidden folder, then renames: a killed download leaves no half file."""
    folder = (root / remotes[0].path).parent
    with hidden_folder(folder, url, name) as hidden:
        archive = _fetch(name, url, hidden, root, remotes[0])
        for remote in remotes:
            source = _extract(archive, remote, hidden) if remote.member else archive
            if source is not None:
                source.replace(root / remote.path)


def _fetch(name: str, url: str, hidden: Path, root: Path, remote: Remote) -> Path:
    target = (root / remote.path).absolute()
    try:
        return fetch(url, hidden, name)
    except FileNotFoundError as error:
        inside = f", take {remote.member} out of it," if remote.member else ""
        raise FileNotFoundError(
            f"{name}: cannot download {url} into {target.parent} ({error.__cause__ or error}); "
            f"fetch it by hand{inside} and save it as {target}, or pass the root= that already "
            "holds the set"
        ) from error


def _extract(archive: Path, remote: Remote, hidden: Path) -> Path | None:
    with reading(archive), zipfile.ZipFile(archive) as members:
        if remote.optional and remote.member not in members.namelist():
            return None
        content = members.read(remote.member)
    path = hidden / Path(remote.path).name
    path.write_bytes(content)
    return path
