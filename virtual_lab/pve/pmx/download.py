"""Fetches files from the net for a storage, and looks at what a URL offers."""

from __future__ import annotations

import hashlib
import http.client
import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import volumes
from .errors import Failure

ALGORITHMS = ("md5", "sha1", "sha224", "sha256", "sha384", "sha512")
_SECONDS = 30.0
_CHUNK = 1 << 20


def fetch(params: Mapping[str, Any]) -> None:
    """The task download: a URL's content becomes the file `path` once checksum and format were checked."""
    path, url = Path(params["path"]), params["url"]
    algorithm, wanted = params.get("checksum-algorithm", ""), params.get("checksum", "").lower()
    print(f"downloading {url} to {path}", flush=True)
    if path.exists():
        _look_at_existing(path, algorithm, wanted)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.tmp_dwnl.{os.getpid()}")
    try:
        _download(url, partial, verify=params.get("verify-certificates", True))
        _check_sum(partial, algorithm, wanted)
        if params.get("image-format"):
            volumes.check_untrusted(partial, params["image-format"])
        partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)
    print(f"download of '{url}' to '{path}' finished", flush=True)


def _look_at_existing(path: Path, algorithm: str, wanted: str) -> None:
    if not wanted:
        raise Failure(f"refusing to override existing file '{path}'")
    print(f"calculating checksum of existing file...{_sum(path, algorithm)}", flush=True)
    if _sum(path, algorithm) != wanted:
        raise Failure("mismatching file hash, refusing to override existing file")
    print("OK, got correct file already, no need to download", flush=True)


def _download(url: str, target: Path, *, verify: bool) -> None:
    try:
        with _opened(url, verify=verify) as answer, target.open("wb") as file:
            while chunk := answer.read(_CHUNK):
                file.write(chunk)
    except (OSError, http.client.HTTPException) as failed:
        raise Failure(f"download failed: {_reason(failed)}") from None


def _check_sum(path: Path, algorithm: str, wanted: str) -> None:
    if not wanted:
        return
    found = _sum(path, algorithm)
    print(f"calculating checksum...{found}", flush=True)
    if found != wanted:
        raise Failure(f"checksum mismatch: got '{found}' != expect '{wanted}', aborting")
    print("OK, checksum verified", flush=True)


def _sum(path: Path, algorithm: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def metadata(url: str, *, verify: bool) -> dict[str, Any]:
    """What GET nodes/{node}/query-url-metadata says; Failure when the URL cannot be had."""
    try:
        with _opened(url, verify=verify, method="HEAD") as answer:
            headers, final = answer.headers, answer.url
    except (OSError, http.client.HTTPException) as failed:
        raise Failure(f"invalid server response: '{_reason(failed)}'") from None
    found: dict[str, Any] = {"filename": final.partition("?")[0].rpartition("/")[2]}
    named = headers.get_filename()
    found.update({"filename": named} if named else {})
    found.update({"size": int(headers["Content-Length"])} if "Content-Length" in headers else {})
    found.update({"mimetype": headers.get_content_type()} if "Content-Type" in headers else {})
    return found


def _opened(url: str, *, verify: bool, method: str = "GET") -> http.client.HTTPResponse:
    context = ssl.create_default_context()
    if not verify:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    request = urllib.request.Request(url, method=method)  # noqa: S310 (the parameter's pattern is http alone)
    answer: http.client.HTTPResponse = urllib.request.urlopen(  # noqa: S310
        request, timeout=_SECONDS, context=context
    )
    return answer


def _reason(failed: Exception) -> str:
    if isinstance(failed, urllib.error.HTTPError):
        return f"{failed.code} {failed.reason}"
    return str(getattr(failed, "reason", None) or failed)
