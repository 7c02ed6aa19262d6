"""DICOM files of simulated scans: one slice a file, or one multi-frame file a scan, as a vendor's scanner exports them.

Everything follows from the simulation, also the UIDs: the same seed writes the same files. Nobody was scanned.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, EnhancedMRImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

from ... import __version__
from ...pipeline.frames import GYROMAGNETIC_RATIO
from ...pipeline.phantom.acquisition import Protocol
from ...pipeline.phantom.poses import ScanGrid
from ..dicom.conversion import Part
from .vendors import StoredImage, Vendor, series_per_scan

_FIRST_SCAN = datetime(2024, 1, 1, 9, 0)
_BETWEEN_SCANS = timedelta(minutes=10)
_DURATION = 300.0  # s
_LPS = np.array([-1.0, -1.0, 1.0])
_MANUFACTURERS: dict[Vendor, str] = {
    "siemens": "SIEMENS",
    "ge": "GE MEDICAL SYSTEMS",
    "philips": "Philips",
    "philips-enhanced": "Philips",
}
_COMPONENTS: dict[Part, str] = {"mag": "MAGNITUDE", "phase": "PHASE", "real": "REAL", "imag": "IMAGINARY"}
_LETTERS: dict[Part, str] = {"mag": "M", "phase": "P", "real": "R", "imag": "I"}
_GE_RAW_DATA_TYPES: dict[Part, int] = {"mag": 0, "phase": 1, "real": 2, "imag": 3}
_GE_CREATOR = "GEMS_PARM_01"
_PHILIPS_CREATORS = ("Philips MR Imaging DD 001", "Philips MR Imaging DD 005")
# fmt: off
_PULSE_SEQUENCE = {  # of an enhanced file
    "PulseSequenceName": "FFE", "MRAcquisitionType": "3D", "EchoPulseSequence": "GRADIENT", "MultipleSpinEcho": "NO",
    "MultiPlanarExcitation": "NO", "PhaseContrast": "NO", "TimeOfFlightContrast": "NO", "Spoiling": "RF",
    "SteadyStatePulseSequence": "NONE", "EchoPlanarPulseSequence": "NO", "SaturationRecovery": "NO",
    "SpectrallySelectedSuppression": "NONE", "SpectrallySelectedExcitation": "NONE", "SpatialPresaturation": "NONE",
    "MagnetizationTransfer": "NONE", "T2Preparation": "NO", "BloodSignalNulling": "NO", "InversionRecovery": "NO",
    "Tagging": "NONE", "OversamplingPhase": "NONE", "GeometryOfKSpaceTraversal": "RECTILINEAR",
    "RectilinearPhaseEncodeReordering": "LINEAR", "SegmentedKSpaceTraversal": "SINGLE", "CoverageOfKSpace": "FULL",
    "NumberOfKSpaceTrajectories": 1, "KSpaceFiltering": "NONE", "ResonantNucleus": "1H",
    "ContentQualification": "RESEARCH", "ApplicableSafetyStandardAgency": "IEC",
}
# fmt: on


@dataclass(frozen=True)
class ScanHeader:
    """What all files of one scan share. subject: bare label; seed: of the simulation; number: of the scan, from 0."""

    vendor: Vendor
    subject: str
    seed: int
    number: int
    grid: ScanGrid
    protocol: Protocol

    @property
    def started(self) -> datetime:
        """When the scan began; scans of a subject are minutes apart."""
        return _FIRST_SCAN + self.number * _BETWEEN_SCANS

    def series_number(self, series: int) -> int:
        """Return the series number of the scan's first (0) or second (1) series; number 1 would be the localiser."""
        return 2 + self.number * series_per_scan(self.vendor) + series

    def uid(self, *words: object) -> UID:
        """Return the UID of something within the subject's study."""
        return generate_uid(entropy_srcs=["chi33", str(self.seed), self.subject, self.vendor, *map(str, words)])

    @property
    def steps(self) -> tuple[int, int]:
        """Steps of the array's x along a row and y down a column: a scanner's go to the left, the back or the feet."""
        x, y = (axis[np.abs(axis).argmax()] for axis in self.grid.frame.T[:2])
        return (-1 if x > 0 else 1), (-1 if y > 0 else 1)

    @property
    def row_and_column(self) -> NDArray[np.float64]:
        """ImageOrientationPatient: unit vectors (2, 3), LPS, along a row and down a column."""
        return _LPS * (self.grid.frame[:, :2] * self.steps).T

    def position(self, z: int) -> NDArray[np.float64]:
        """ImagePositionPatient (3,), LPS, mm: the centre of a slice's upper left pixel."""
        x, y = (n - 1 if step < 0 else 0 for n, step in zip(self.grid.shape, self.steps, strict=False))
        return np.asarray(_LPS * (self.grid.affine @ [x, y, z, 1])[:3])

    def pixels(self, image: StoredImage, z: int) -> bytes:
        """Return the pixels of a slice, row by row from the top."""
        x, y = self.steps
        plane = np.ascontiguousarray(image.codes[::x, ::y, z].T)
        return plane.astype(plane.dtype.newbyteorder("<")).tobytes()


def write_dicom_scan(folder: Path, header: ScanHeader, images: Sequence[StoredImage]) -> None:
    """Write the images of a scan into folder as the header's vendor does, classic or enhanced.

    The array's z are the slices; x and y run along rows and columns in the direction that scanners use.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if header.vendor == "philips-enhanced":
        _write_enhanced(folder / f"scan-{header.number + 1:02d}.dcm", header, images)
    else:
        _write_classic(folder, header, images)


def _write_classic(folder: Path, header: ScanHeader, images: Iterable[StoredImage]) -> None:
    written: dict[int, int] = {}
    for image in images:
        for z in range(header.grid.shape[2]):
            instance = written[image.series] = written.get(image.series, 0) + 1
            ds = _dataset(header, image.series, MRImageStorage, instance)
            _add_classic(ds, header, image)
            ds.SliceLocation = _decimal(z * header.grid.voxel_size[2])
            ds.update(_plane_position(header, z))
            ds.PixelData = header.pixels(image, z)
            _save(ds, folder / f"s{ds.SeriesNumber:03d}_{instance:05d}.dcm")


def _add_classic(ds: Dataset, header: ScanHeader, image: StoredImage) -> None:
    ds.ImageType = _image_type(header.vendor, image.part)
    ds.update(_pixel_measures(header))
    ds.update(_plane_orientation(header))
    ds.EchoTime, ds.EchoNumbers = _decimal(1000 * image.echo_time), image.echo
    ds.RepetitionTime = _decimal(1000 * header.protocol.repetition_time)
    ds.FlipAngle = _decimal(header.protocol.flip_angle)
    ds.ScanningSequence, ds.SequenceVariant, ds.ScanOptions = "GR", "SP", "FC"
    ds.MRAcquisitionType = "3D"
    _add_pixel_format(ds, header, image)
    ds.update(_rescale(image))
    if header.vendor == "ge":
        ds.private_block(0x0043, _GE_CREATOR, create=True).add_new(0x2F, "SS", _GE_RAW_DATA_TYPES[image.part])
    if header.vendor == "philips":
        _add_philips_scale(ds, image)


def _write_enhanced(path: Path, header: ScanHeader, images: Sequence[StoredImage]) -> None:
    ds = _dataset(header, 0, EnhancedMRImageStorage, 1)
    ds.ImageType = ["ORIGINAL", "PRIMARY", "M", "NONE"]
    ds.PixelPresentation, ds.VolumetricProperties, ds.VolumeBasedCalculationTechnique = "MONOCHROME", "VOLUME", "NONE"
    ds.ComplexImageComponent, ds.AcquisitionContrast = "MIXED", "T2_STAR"
    ds.AcquisitionDateTime = f"{header.started:%Y%m%d%H%M%S.%f}"
    ds.AcquisitionDuration, ds.DeviceSerialNumber = _DURATION, "1"
    ds.update(_item(**_PULSE_SEQUENCE))
    ds.BurnedInAnnotation, ds.LossyImageCompression, ds.PresentationLUTShape = "NO", "00", "IDENTITY"
    _add_pixel_format(ds, header, images[0])
    ds.DimensionOrganizationSequence, ds.DimensionIndexSequence = _dimensions(header)
    ds.SharedFunctionalGroupsSequence = [_shared_groups(header, images)]
    parts: list[Part] = list(dict.fromkeys(image.part for image in images))
    frames, pixels = [], []
    for image in images:
        for z in range(header.grid.shape[2]):
            frames.append(_frame_groups(header, image, z, parts.index(image.part) + 1))
            pixels.append(header.pixels(image, z))
    ds.NumberOfFrames = len(frames)
    ds.PerFrameFunctionalGroupsSequence = frames
    ds.PixelData = b"".join(pixels)
    _save(ds, path)


def _dimensions(header: ScanHeader) -> tuple[list[Dataset], list[Dataset]]:
    """Return the dimensions by which the frames are told apart: stack, slice, echo time, magnitude or phase."""
    uid = header.uid("dimensions")
    pointers = (
        ("StackID", "FrameContentSequence"),
        ("InStackPositionNumber", "FrameContentSequence"),
        ("EffectiveEchoTime", "MREchoSequence"),
        ("ComplexImageComponent", "MRImageFrameTypeSequence"),
    )
    indices = [
        _item(
            DimensionOrganizationUID=uid,
            DimensionIndexPointer=tag_for_keyword(name),
            FunctionalGroupPointer=tag_for_keyword(group),
            DimensionDescriptionLabel=name,
        )
        for name, group in pointers
    ]
    return [_item(DimensionOrganizationUID=uid)], indices


def _shared_groups(header: ScanHeader, images: Sequence[StoredImage]) -> Dataset:
    protocol = header.protocol
    return _item(
        PixelMeasuresSequence=[_pixel_measures(header)],
        PlaneOrientationSequence=[_plane_orientation(header)],
        FrameAnatomySequence=[
            _item(
                FrameLaterality="U",
                AnatomicRegionSequence=[_item(CodeValue="T-A0100", CodingSchemeDesignator="SRT", CodeMeaning="Brain")],
            )
        ],
        MRTimingAndRelatedParametersSequence=[
            _item(
                RepetitionTime=_decimal(1000 * protocol.repetition_time),
                FlipAngle=_decimal(protocol.flip_angle),
                EchoTrainLength=1,
                RFEchoTrainLength=0,
                GradientEchoTrainLength=max(image.echo for image in images),
            )
        ],
    )


def _frame_groups(header: ScanHeader, image: StoredImage, z: int, part_index: int) -> Dataset:
    """Return the functional groups of one frame, with Philips' own sequence for its precise scale."""
    started = f"{header.started:%Y%m%d%H%M%S.%f}"
    groups = _item(
        FrameContentSequence=[
            _item(
                FrameAcquisitionNumber=1,
                FrameReferenceDateTime=started,
                FrameAcquisitionDateTime=started,
                FrameAcquisitionDuration=1000 * _DURATION,
                StackID="1",
                InStackPositionNumber=z + 1,
                TemporalPositionIndex=1,
                DimensionIndexValues=[1, z + 1, image.echo, part_index],
            )
        ],
        PlanePositionSequence=[_plane_position(header, z)],
        MREchoSequence=[_item(EffectiveEchoTime=1000 * image.echo_time)],
        PixelValueTransformationSequence=[_rescale(image)],
        MRImageFrameTypeSequence=[
            _item(
                FrameType=_image_type(header.vendor, image.part)[:4],
                PixelPresentation="MONOCHROME",
                VolumetricProperties="VOLUME",
                VolumeBasedCalculationTechnique="NONE",
                ComplexImageComponent=_COMPONENTS[image.part],
                AcquisitionContrast="T2_STAR",
            )
        ],
    )
    private = _item(EchoNumbers=image.echo, ImageType=_image_type(header.vendor, image.part))
    _add_philips_scale(private, image)
    groups.private_block(0x2005, _PHILIPS_CREATORS[1], create=True).add_new(0x0F, "SQ", [private])
    return groups


def _dataset(header: ScanHeader, series: int, sop_class: UID, instance: int) -> Dataset:
    """Return a data set with the patient, study, series, equipment and general image attributes."""
    ds = Dataset()
    number, protocol = header.series_number(series), header.protocol
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class, header.uid("series", number, "instance", instance)
    ds.SpecificCharacterSet, ds.Modality = "ISO_IR 100", "MR"
    ds.Manufacturer, ds.ManufacturerModelName = _MANUFACTURERS[header.vendor], "chi33 simulator"
    ds.SoftwareVersions = __version__
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "Simulated^Head", header.subject, "", "O"
    ds.PatientPosition, ds.BodyPartExamined, ds.PositionReferenceIndicator = "HFS", "HEAD", ""
    ds.StudyInstanceUID, ds.FrameOfReferenceUID = header.uid("study"), header.uid("frame of reference")
    ds.SeriesInstanceUID, ds.StudyID, ds.AccessionNumber = header.uid("series", number), "1", ""
    ds.StudyDate, ds.StudyTime = f"{_FIRST_SCAN:%Y%m%d}", f"{_FIRST_SCAN:%H%M%S.%f}"
    for name in ("Series", "Acquisition", "Content"):
        setattr(ds, f"{name}Date", f"{header.started:%Y%m%d}")
        setattr(ds, f"{name}Time", f"{header.started:%H%M%S.%f}")
    ds.ReferringPhysicianName = ""
    ds.SeriesNumber, ds.AcquisitionNumber, ds.InstanceNumber = number, 1, instance
    ds.SeriesDescription = ds.ProtocolName = f"GRE orientation {header.number + 1}"
    ds.MagneticFieldStrength = _decimal(protocol.b0)
    ds.ImagingFrequency = _decimal(GYROMAGNETIC_RATIO * protocol.b0)
    ds.ImagedNucleus = "1H"
    return ds


def _add_pixel_format(ds: Dataset, header: ScanHeader, image: StoredImage) -> None:
    ds.Columns, ds.Rows = header.grid.shape[:2]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, image.bits, image.bits - 1
    ds.PixelRepresentation = int(image.codes.dtype == np.int16)


def _image_type(vendor: Vendor, part: Part) -> list[str]:
    if vendor == "siemens":
        return ["ORIGINAL", "PRIMARY", _LETTERS[part], "ND"]
    if vendor == "ge":
        return ["ORIGINAL", "PRIMARY", "OTHER"]
    return ["ORIGINAL", "PRIMARY", {"mag": "M_FFE", "phase": "PHASE MAP"}[part], _LETTERS[part], "FFE"]


def _pixel_measures(header: ScanHeader) -> Dataset:
    x, y, z = (_decimal(size) for size in header.grid.voxel_size)
    return _item(PixelSpacing=[y, x], SliceThickness=z, SpacingBetweenSlices=z)


def _plane_orientation(header: ScanHeader) -> Dataset:
    return _item(ImageOrientationPatient=[_decimal(v) for v in header.row_and_column.ravel()])


def _plane_position(header: ScanHeader, z: int) -> Dataset:
    return _item(ImagePositionPatient=[_decimal(v) for v in header.position(z)])


def _rescale(image: StoredImage) -> Dataset:
    return _item(
        RescaleIntercept=_decimal(image.intercept),
        RescaleSlope=_decimal(image.slope),
        RescaleType="US",
    )


def _add_philips_scale(ds: Dataset, image: StoredImage) -> None:
    block = ds.private_block(0x2005, _PHILIPS_CREATORS[0], create=True)
    block.add_new(0x0D, "FL", image.scale_intercept)
    block.add_new(0x0E, "FL", image.scale_slope)
    block.add_new(0x11, "CS", _LETTERS[image.part])


def _decimal(value: float) -> str:
    """Return a number in the 16 characters of a decimal string."""
    return f"{value + 0.0:.10g}"


def _item(**attributes: Any) -> Dataset:
    ds = Dataset()
    for name, value in attributes.items():
        setattr(ds, name, value)
    return ds


def _save(ds: Dataset, path: Path) -> None:
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.save_as(path, enforce_file_format=True)
