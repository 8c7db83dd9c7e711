"""Stands for the package gcsfs in tests: buckets are the folders of $TEST_BUCKETS, in all processes.

An object is written whole or not at all, and folders are only what names have in common, as in a bucket.
"""

import os
import uuid
from pathlib import Path

from fsspec.implementations.local import LocalFileSystem


class GCSFileSystem(LocalFileSystem):
    protocol = ("gs", "gcs")
    root_marker = ""

    @classmethod
    def _strip_protocol(cls, path):
        text = str(path)
        root = os.environ["TEST_BUCKETS"]
        if not text.startswith("gs://"):
            return text.rstrip("/")
        return f"{root}/{text.removeprefix('gs://').strip('/')}"

    def _put(self, path, data, new):
        target = Path(self._strip_protocol(path))
        if target.relative_to(os.environ["TEST_BUCKETS"]).parts[0] not in self._buckets():
            raise FileNotFoundError(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        half = target.with_name(f"~{uuid.uuid4().hex}")
        half.write_bytes(data)
        try:
            os.link(half, target) if new else os.replace(half, target)
        finally:
            half.unlink(missing_ok=True)

    def _buckets(self):
        return os.listdir(os.environ["TEST_BUCKETS"])

    def pipe_file(self, path, value, mode="overwrite", **options):
        self._put(path, value, mode == "create")

    def put_file(self, lpath, rpath, callback=None, mode="overwrite", **options):
        self._put(rpath, Path(lpath).read_bytes(), mode == "create")

    def rm_file(self, path):
        target = Path(self._strip_protocol(path))
        target.unlink()
        for folder in target.parents:
            if any(folder.iterdir()) or folder.name in self._buckets():
                break
            folder.rmdir()

    def find(self, path, **options):
        found = super().find(path, **options)
        return {n: one for n, one in found.items() if not os.path.basename(n).startswith("~")}

    def ls(self, path, detail=False, **options):
        if detail:
            return super().ls(path, detail=True, **options)
        names = super().ls(path, detail=False, **options)
        whole = [n for n in names if not os.path.basename(n).startswith("~")]
        bucket = Path(path.removeprefix("gs://")).parts
        if not whole and len(bucket) > 1:
            raise FileNotFoundError(path)
        return whole
