"""Where a run lies: a folder, or a bucket (s3://, gs://) with a working copy on this machine."""

import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pyarrow.fs as fs

CACHE = Path("~/.cache/marval_ray/runs")
"""Working copies of runs in buckets."""
ERRORS = "error.log"
"""Where the whole of an error goes whose sentence a run ends with."""


@dataclass(frozen=True)
class Storage:
    """uri: of the bucket, None when the run lies in `folder`. folder: where this machine reads and writes."""

    uri: str | None
    folder: Path

    @classmethod
    def of(cls, place: str, purpose: str = "run") -> "Storage":
        """Return the storage at `place`, a folder or a URI; each purpose has a working copy of its own.

        Raises ValueError when it is a URI that pyarrow does not know.
        """
        if "://" not in place:
            return cls(None, Path(place))
        number = hashlib.sha256(place.encode()).hexdigest()[:16]
        storage = cls(place, CACHE.expanduser() / f"{number}-{purpose}")
        storage.place()
        return storage

    def __str__(self) -> str:
        return self.uri.split("?")[0] if self.uri else str(self.folder)

    @property
    def checkpoints(self) -> str:
        """Where Ray Train keeps them; every node writes there itself."""
        return self.uri or str(self.folder.absolute())

    def pull(self, *names: str) -> None:
        """Make the working copy these files of the bucket, as far as they are there, and nothing else.

        Raises OSError when the bucket does not answer.
        """
        if self.uri is None:
            return
        bucket, root = self.place()
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        for name, info in zip(names, bucket.get_file_info([f"{root}/{name}" for name in names])):
            if info.type == fs.FileType.File:
                fs.copy_files(info.path, str(self.folder / name), source_filesystem=bucket)
                os.utime(self.folder / name, (info.mtime.timestamp(),) * 2)

    def push(self, *names: str) -> None:
        """Copy these files and folders of the working copy into the bucket; all but checkpoints without `names`."""
        if self.uri is None:
            return
        bucket, root = self.place()
        for name in names or [path.name for path in self.folder.iterdir() if not path.name.startswith((".", "last-"))]:
            fs.copy_files(str(self.folder / name), f"{root}/{name}", destination_filesystem=bucket)

    def take(self, source: Path, name: str) -> None:
        """Copy a file or folder of this machine to `name`; into a bucket it goes past the working copy."""
        system, root = self.place()
        system.create_dir(f"{root}/{name if source.is_dir() else Path(name).parent}")
        fs.copy_files(str(source), f"{root}/{name}", source_filesystem=fs.LocalFileSystem(), destination_filesystem=system)

    def remove(self, names: list[str]) -> None:
        """Delete these files and folders, as far as they are there."""
        for system, root in [self._local()] + ([self.place()] if self.uri else []):
            for info in system.get_file_info([f"{root}/{name}" for name in names]):
                if info.type == fs.FileType.Directory:
                    system.delete_dir(info.path)
                elif info.type == fs.FileType.File:
                    system.delete_file(info.path)

    def listing(self, name: str = "") -> list[str]:
        """Return the names of what lies in a folder of the run, sorted."""
        system, root = self.place()
        found = system.get_file_info(fs.FileSelector(f"{root}/{name}".rstrip("/"), allow_not_found=True))
        return sorted(info.base_name for info in found)

    def _local(self) -> tuple[fs.FileSystem, str]:
        return fs.LocalFileSystem(), str(self.folder)

    def place(self) -> tuple[fs.FileSystem, str]:
        """Return (file system, the run's path in it). Raises ValueError when pyarrow does not know the URI."""
        if self.uri is None:
            return self._local()
        try:
            system, root = fs.FileSystem.from_uri(self.uri)
        except (ValueError, OSError) as error:
            raise ValueError(f"{self.uri} is no place for a run: {error}; give a folder, s3://BUCKET/... or gs://BUCKET/...") from error
        return system, root.rstrip("/")


def lasting(out: str) -> str:
    """Make a folder's or file's path absolute; a URI stays.

    Ray deletes a submitted job's copy of the working directory, so there a relative path is put under home.
    """
    inside_copy = "runtime_resources" in Path.cwd().parts
    return out if "://" in out else str((Path.home() if inside_copy else Path.cwd()) / out)
