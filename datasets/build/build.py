"""Builds a store: its parts in parallel, then joined, checked and put in place; what is finished survives a kill."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from numpy.typing import NDArray

from ...files.errors import Chi33Warning, InputError, StepError
from ...files.maps.units import conversions
from ...files.os_errors import os_error_words
from ...pipeline.computing.threads import available_processors
from ..loading.patches import join_tables
from ..store.guarded_file import DiskFullError
from ..store.hdf5_reading import hdf5_reading
from ..store.volume import SPLITS
from ..store.volume_part import part_moments
from ..store.writer import ReadBackError, StoreWriter, check_free_space, check_target
from .config import BuildConfig, Copies
from .lock import PartsFolder, parts_folder, remove_leftovers
from .splits import split_subjects
from .statistics import MaskedMoments
from .subject_source import SubjectSource, sources_of
from .tasks import DigestTask, Made, PatchesTask, VolumeTask, digest_groups, make_patches, make_volume
from .workers import Workers, workers

__all__ = ["BuildConfig", "BuildSummary", "Copies", "build_from", "build_store"]

Progress = Callable[[int, int, str], None]
_COMPRESSED = 0.5  # of float32 volumes whose surroundings are zero: a floor, not a promise
_WORTH_WORKERS = 200e6  # bytes: some ten seconds of writing
_COPIES_ON_DISK = 2  # the parts and the store, until the parts are removed
Task = TypeVar("Task")
Result = TypeVar("Result")


@dataclass(frozen=True)
class BuildSummary:
    """What a store came to hold: subjects, volumes (of them augmented) and patches per split, and its bytes."""

    subjects: dict[str, tuple[str, ...]]
    volumes: dict[str, int]
    augmented: int
    patches: dict[str, int]
    size: int


def build_store(
    derivatives: Path,
    path: Path,
    config: BuildConfig | None = None,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
    n_procs: int | None = 1,
    scheduler: str | None = None,
) -> BuildSummary:
    """Write the store `path` from the label maps under `derivatives`; see build_from.

    Warns of maps that are converted to ppm, with the factor.
    """
    remove_leftovers(path)
    check_target(path, overwrite=overwrite)
    sources = sources_of(derivatives)
    for said in conversions(scaling for source in sources for scaling in source.scalings()):
        warnings.warn(said, Chi33Warning, stacklevel=2)
    return build_from(
        sources,
        path,
        config,
        overwrite=overwrite,
        progress=progress,
        n_procs=n_procs,
        scheduler=scheduler,
    )


def build_from(
    sources: Sequence[SubjectSource],
    path: Path,
    config: BuildConfig | None = None,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
    n_procs: int | None = 1,
    scheduler: str | None = None,
) -> BuildSummary:
    """Write the store `path` from the maps of subjects, holding one volume in the memory of each worker at a time.

    progress(done, total, what): how many steps are finished, and what is being made; n_procs: worker processes, None
    for as many as cores where the maps are large enough to be worth starting them; scheduler: address of a Dask
    scheduler whose workers see the same files, instead. The content does not depend on them.
    What is finished is kept beside the store until the store is: a build that died goes on when repeated.
    Raises InputError for unusable input (missing or damaged maps, splits, patch rule, an existing store, another
    build of it, too little disk) and StepError where the disk runs full, then nothing is left behind, or fails. Warns
    of volumes without an admissible patch.
    """
    path, config = Path(path).absolute(), config or BuildConfig()
    remove_leftovers(path)
    check_target(path, overwrite=overwrite)
    _check_sources(sources)
    splits = split_subjects([source.subject for source in sources], config.val_subjects, config.test_subjects)
    plan = _Plan.of(sources, splits, config, parts_folder(path))
    check_free_space(path, plan.estimated_bytes() - plan.bytes_done())
    with PartsFolder(path) as parts:
        try:
            parts.keep_only(task.part.stem for task in plan.tasks)
            processes = plan.worthwhile_workers() if n_procs is None else n_procs
            with workers(processes, scheduler, len(plan.tasks)) as crew:
                build = _Build(plan, crew, progress or (lambda *_: None))
                volumes = build.make_volumes()
                summary = build.join(path, volumes, overwrite=overwrite, parts=parts)
        except (DiskFullError, ReadBackError):
            parts.remove()
            raise
        except OSError as error:
            raise StepError(f"{path} could not be built: {os_error_words(error)}.") from error
        parts.remove()
    return summary


def _check_sources(sources: Sequence[SubjectSource]) -> None:
    if not sources:
        raise InputError("there is no subject to build a store from: give at least one.")
    ids = [name for source in sources for name in (f"sub-{source.subject}", *source.scan_ids)]
    twice = sorted({name for name in ids if ids.count(name) > 1})
    if twice:
        raise InputError(f"{', '.join(twice)} is given twice: give every subject and scan a label of its own.")


@dataclass(frozen=True)
class _Plan:
    """The tasks of a build in the order of the store, and in which split each subject is."""

    config: BuildConfig
    sources: Sequence[SubjectSource]
    splits: Mapping[str, str]
    tasks: tuple[VolumeTask, ...]

    @classmethod
    def of(
        cls, sources: Sequence[SubjectSource], splits: Mapping[str, str], config: BuildConfig, folder: Path
    ) -> _Plan:
        tasks: list[VolumeTask] = []
        for source in sources:
            common = (folder, config.rule, config.copies)
            fingerprint = source.fingerprint()
            copies = config.augment if splits[source.subject] == "train" else 0
            steps = [("scan", number) for number in range(len(source.scan_ids))] + [("tensor", 0)]
            steps += [("copy", number) for number in range(1, copies + 1)]
            tasks += [VolumeTask(source, fingerprint, kind, number, *common) for kind, number in steps]
        return cls(config, sources, splits, tuple(tasks))

    def split(self, task: VolumeTask) -> str:
        return self.splits[task.source.subject]

    def used_splits(self) -> list[str]:
        return sorted(set(self.splits.values()), key=SPLITS.index)

    def worthwhile_workers(self) -> int:
        """Return the processors granted, or 1 where processes take longer to start than the maps to be written."""
        return available_processors() if self.estimated_bytes() > _WORTH_WORKERS else 1

    def bytes_done(self) -> int:
        """Return the bytes of the parts that an earlier build left."""
        return sum(task.part.stat().st_size for task in self.tasks if task.part.is_file())

    def estimated_bytes(self) -> int:
        """About the bytes that are on the disk at once: float32 channels, half of which compression saves."""
        total = 0
        rule = self.config.rule
        for source in self.sources:
            copies = self.config.augment if self.splits[source.subject] == "train" else 0
            channels, largest = 2 + len(source.labels), max(source.voxels)
            total += 4 * channels * (sum(source.voxels) + copies * largest)
            total += 4 * 6 * largest if "chi33" in source.labels else 0
            if self.config.materialise:
                patches = rule.number or largest / (rule.stride or rule.size) ** 3
                total += 4 * channels * int((len(source.voxels) + copies) * patches * rule.size**3)
        return int(_COPIES_ON_DISK * _COMPRESSED * total)


@dataclass
class _Build:
    """One build under way."""

    plan: _Plan
    crew: Workers
    progress: Progress
    done: int = 0

    @property
    def total(self) -> int:
        tasks = self.plan.tasks
        cropped = sum(task.kind != "tensor" for task in tasks) if self.plan.config.materialise else 0
        return len(tasks) + cropped

    def make_volumes(self) -> list[tuple[VolumeTask, Made]]:
        """Make the parts of all volumes and tensors; raises InputError where nothing is left to train on."""
        tasks = self.plan.tasks
        made = list(zip(tasks, self._run(make_volume, tasks, [task.id for task in tasks]), strict=True))
        refused = [one.refused for _, one in made if one.refused is not None]
        in_train = [one.rows for task, one in made if self.plan.split(task) == "train" and one.rows is not None]
        if not any(len(rows) for rows in in_train):
            raise InputError(refused[0])
        for said in dict.fromkeys(said for _, one in made for said in one.remarks):
            warnings.warn(said, Chi33Warning, stacklevel=4)
        for message in refused:
            warnings.warn(f"Left out, {message}", Chi33Warning, stacklevel=4)
        return [(task, one) for task, one in made if one.part is not None]

    def join(
        self, path: Path, volumes: list[tuple[VolumeTask, Made]], *, overwrite: bool, parts: PartsFolder
    ) -> BuildSummary:
        """Copy the parts into the store, add tables and statistics, check it and put it in place."""
        plan = self.plan
        cropped = self._crop(volumes) if plan.config.materialise else {}
        self.progress(self.total, self.total, "joining")
        groups = tuple(task.group for task, _ in volumes)
        moments = MaskedMoments()
        with StoreWriter(
            path,
            plan.config.record(),
            overwrite=overwrite,
            reread=lambda partial: self._reread(partial, groups),
            ready=parts.mark_done,
        ) as writer:
            for task, made in volumes:
                assert made.part is not None
                writer.add_part(made.part, task.group, plan.split(task))
                if made.rows is not None and plan.split(task) == "train":
                    with hdf5_reading(made.part) as handle:
                        moments.merge(part_moments(handle))
            tables = {split: join_tables(self._rows(volumes, split)) for split in plan.used_splits()}
            for split, rows in tables.items():
                writer.add_table(split, rows, plan.config.rule)
                if split in cropped:
                    writer.add_cropped(split, *cropped[split])
            writer.add_statistics(moments.result())
        return self._summary(path, volumes, tables)

    def _rows(self, volumes: list[tuple[VolumeTask, Made]], split: str) -> list[NDArray[Any]]:
        return [made.rows for task, made in volumes if made.rows is not None and self.plan.split(task) == split]

    def _crop(
        self, volumes: list[tuple[VolumeTask, Made]]
    ) -> dict[str, tuple[tuple[str, ...], list[tuple[slice, Path]]]]:
        """Cut the patches of every volume into parts: per split its channels, and the rows of each part."""
        tasks: list[PatchesTask] = []
        cropped: dict[str, tuple[tuple[str, ...], list[tuple[slice, Path]]]] = {}
        for split in self.plan.used_splits():
            found = [(t, m) for t, m in volumes if m.rows is not None and len(m.rows) and self.plan.split(t) == split]
            if not found:
                continue
            channels = _common_channels(found)
            start, slices = 0, []
            for _, made in found:
                assert made.part is not None
                assert made.rows is not None
                tasks.append(PatchesTask(made.part, made.rows, self.plan.config.rule.size, channels))
                slices.append((slice(start, start + len(made.rows)), tasks[-1].part))
                start += len(made.rows)
            cropped[split] = (channels, slices)
        self.done = len(self.plan.tasks)
        names = [f"patches of {task.rows['volume'][0].decode()}" for task in tasks]
        self._run(make_patches, tasks, names)
        return cropped

    def _reread(self, partial: Path, groups: Iterable[str]) -> dict[str, str]:
        self.progress(self.total, self.total, "checking")
        tasks = [DigestTask(partial, (group,)) for group in (*groups, "patches")]
        digests: dict[str, str] = {}
        for _, found in self.crew.map(digest_groups, tasks):
            digests.update(found)
        return digests

    def _run(self, function: Callable[[Task], Result], tasks: Sequence[Task], names: Sequence[str]) -> list[Result]:
        """Return the results of tasks in their order, with progress."""
        results: dict[int, Result] = {}
        self.progress(self.done, self.total, names[0])
        for index, result in self.crew.map(function, tasks):
            results[index] = result
            if len(results) < len(tasks):
                self.progress(self.done + len(results), self.total, names[len(results)])
        return [results[index] for index in range(len(tasks))]

    def _summary(
        self, path: Path, volumes: list[tuple[VolumeTask, Made]], tables: Mapping[str, NDArray[Any]]
    ) -> BuildSummary:
        splits = self.plan.splits
        return BuildSummary(
            subjects={split: tuple(s for s, of in splits.items() if of == split) for split in tables},
            volumes={split: len(self._rows(volumes, split)) for split in tables},
            augmented=sum(task.kind == "copy" for task, _ in volumes),
            patches={split: len(rows) for split, rows in tables.items()},
            size=path.stat().st_size,
        )


def _common_channels(volumes: list[tuple[VolumeTask, Made]]) -> tuple[str, ...]:
    common: set[str] | None = None
    for task, made in volumes:
        assert made.part is not None
        with hdf5_reading(made.part) as handle:
            own = set(handle[task.group])
        common = own if common is None else common & own
    return tuple(sorted(common or ()))
