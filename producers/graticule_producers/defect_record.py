"""The record of one picture that notebooks written for the older real-time TEM tool read."""

from __future__ import annotations

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from graticule.results import Result


class DefectRecord(BaseModel):
    """One picture, with the keys that notebooks read. Lengths in pixels."""

    model_config = ConfigDict(validate_by_name=True, serialize_by_alias=True)

    void_frac: float = Field(description="Object pixels / all pixels of the picture.")
    void_count: int
    radii: list[float] = Field(description="Radius of the circle of equal area.")
    radii_average: float
    positions: list[tuple[float, float]] = Field(description="(x, y), x to the right.")
    touches_side: list[bool]
    type: list[str] = Field(description="Class of each object.")
    run_time: float = Field(description="Seconds of work.")
    created_time: AwareDatetime | None
    detect_time: AwareDatetime
    completed_time: AwareDatetime
    rtt: float = Field(description="Seconds from detection to result.")
    image_path: str = Field(alias="image-path")
    mask_path: str = Field(alias="mask-path")

    @classmethod
    def of(cls, result: Result, image_path: str, mask_path: str) -> DefectRecord:
        """The record of a segmentation. Raises OtherKind."""
        job, found = result.job, result.segmentation
        seconds = result.timings.model_dump(exclude={"queued"})
        values = {
            "void_frac": found.area_fraction,
            "void_count": found.count,
            "radii": [one.equivalent_radius for one in found.objects],
            "radii_average": found.mean_radius or 0.0,
            "positions": [one.centroid for one in found.objects],
            "touches_side": [one.touches_edge for one in found.objects],
            "type": [one.class_name for one in found.objects],
            "run_time": sum(seconds.values()),
            "created_time": job.captured_at,
            "detect_time": job.submitted_at,
            "completed_time": result.completed_at,
            "rtt": (result.completed_at - job.submitted_at).total_seconds(),
            "image_path": image_path,
            "mask_path": mask_path,
        }
        return cls.model_validate(values)
