from __future__ import annotations

import csv
import sys
from pathlib import Path

import pyarrow.parquet as parquet
import pytest

from graticule.errors import MissingPart
from graticule.results import Calibration
from graticule.tables import Entry, Tables, plain
from tests.run.samples import NOON, make_failure, make_job, make_object, make_result

CLASSES = ("crack", "fray")
ODD_NAMES = [
    "plain.jpg",
    'quote"s and, commas; too.jpg',
    "two\nlines.jpg",
    "carriage\r\nreturn.jpg",
    '=HYPERLINK("http://x","y").jpg',
    "+1.jpg",
    "-1.jpg",
    "@SUM(A1).jpg",
    "\ttab.jpg",
    "'quoted'.jpg",
    "'=marked.jpg",
    "''=marked twice.jpg",
    "＝wide.jpg",
    "Größe 漢字 😀.jpg",
    " space .jpg",
]


def entry(name: str = "a.jpg", *objects, **changes) -> Entry:
    job = make_job(name)
    result = make_result(job, *objects)
    values = {"status": "succeeded", "job_id": job.job_id, "mask": "masks/a.png"} | changes
    return Entry(file=name, path=f"in/{name}", outcome=result, **values)


def write(folder: Path, *entries: Entry) -> None:
    with Tables(folder, CLASSES) as tables:
        for place, one in enumerate(entries):
            tables.add(place, one)


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


def test_the_row_of_a_picture(tmp_path: Path):
    objects = make_object(1), make_object(2, class_name="fray", area=28, equivalent_radius=2.9854, confidence=0.25)
    write(tmp_path, entry("a.jpg", *objects, overlay="overlays/a.png"))
    (row,) = read_csv(tmp_path / "results.csv")
    assert row["file"], row["path"] == ("a.jpg", "in/a.jpg")
    assert row["status"] == "succeeded"
    assert row["error"] == row["error_message"] == ""
    assert (row["model"], row["model_version"], row["model_sha256"]) == ("tile-defects", "1.0.0", "b" * 64)
    assert (row["width_px"], row["height_px"]) == ("20", "10")
    assert (row["count"], row["count_crack"], row["count_fray"]) == ("2", "1", "1")
    assert float(row["area_fraction"]) == pytest.approx(40 / 200)
    assert float(row["mean_radius_px"]) == pytest.approx(2.4699)
    assert (row["mean_confidence"], row["max_confidence"]) == ("0.5", "0.75")
    assert (row["queued_s"], row["infer_s"], row["store_s"]) == ("0.5", "0.04", "0.06")
    assert row["captured_at"] == NOON.isoformat()
    assert (row["mask"], row["overlay"]) == ("masks/a.png", "overlays/a.png")


def test_the_rows_of_its_objects(tmp_path: Path):
    physical = {"area_nm2": 3.0, "equivalent_radius_nm": 0.9772, "perimeter_nm": 5.0, "centroid_nm": (2.25, 1.125)}
    shape = {"perimeter": 10.0, "eccentricity": 0.5, "orientation": 0.25}
    one = make_object(1, **physical, **shape)
    write(tmp_path, entry("a.jpg", one, make_object(2, touches_edge=True)), entry("b.jpg"))
    first, second = read_csv(tmp_path / "objects.csv")
    assert first == {
        "file": "a.jpg",
        "path": "in/a.jpg",
        "frame": "0",
        "job_id": make_job("a.jpg").job_id,
        "object_id": "1",
        "class": "crack",
        "area_px": "12",
        "area_nm2": "3.0",
        "equivalent_radius_px": "1.9544",
        "equivalent_radius_nm": "0.9772",
        "perimeter_px": "10.0",
        "perimeter_nm": "5.0",
        "eccentricity": "0.5",
        "orientation_rad": "0.25",
        "centroid_x_px": "4.5",
        "centroid_y_px": "2.25",
        "centroid_x_nm": "2.25",
        "centroid_y_nm": "1.125",
        "left_px": "3",
        "top_px": "1",
        "right_px": "7",
        "bottom_px": "4",
        "touches_edge": "false",
        "confidence": "0.75",
    }
    assert (second["object_id"], second["touches_edge"], second["area_nm2"]) == ("2", "true", "")


def test_parquet_has_the_same_rows_with_types(tmp_path: Path):
    write(tmp_path, entry("a.jpg", make_object(1)), entry("b.jpg"))
    table = parquet.read_table(tmp_path / "results.parquet")
    texts = read_csv(tmp_path / "results.csv")
    assert table.column_names == list(texts[0])
    rows = table.to_pylist()
    assert [row["file"] for row in rows] == ["a.jpg", "b.jpg"]
    assert rows[0]["max_confidence"] == 0.75
    assert rows[1]["max_confidence"] is None
    assert rows[1]["mean_radius_px"] is None
    assert rows[0]["captured_at"] == NOON
    assert str(table.schema.field("count_fray").type) == "int64"
    assert parquet.read_table(tmp_path / "objects.parquet").to_pylist()[0]["touches_edge"] is False


def test_a_failed_picture_has_a_row_with_the_reason(tmp_path: Path):
    job = make_job()
    failed = Entry("a.jpg", "in/a.jpg", make_failure(job, "It ends,\nearly."), "failed", job_id=job.job_id)
    unsent = Entry("b.jpg", "in/b.jpg", None, "failed", error="SourceUnreadable", message="Cannot read 'b.jpg'.")
    write(tmp_path, failed, unsent)
    first, second = read_csv(tmp_path / "results.csv")
    assert (first["status"], first["error"], first["error_stage"]) == ("failed", "UnreadableImage", "decode")
    assert first["error_message"] == "It ends,\nearly."
    assert first["count"] == first["infer_s"] == ""
    assert (second["error"], second["error_message"]) == ("SourceUnreadable", "Cannot read 'b.jpg'.")
    assert parquet.read_table(tmp_path / "results.parquet").to_pylist()[1]["count"] is None
    assert parquet.read_table(tmp_path / "objects.parquet").num_rows == 0


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names_come_back_from_both_formats(tmp_path: Path, name: str):
    write(tmp_path, entry(name, make_object(1)))
    for table in ("results", "objects"):
        (row,) = read_csv(tmp_path / f"{table}.csv")
        assert plain(row["file"]) == name
        assert parquet.read_table(tmp_path / f"{table}.parquet").to_pylist()[0]["file"] == name


@pytest.mark.parametrize("name", [name for name in ODD_NAMES if name.lstrip("'")[0] in "=+-@\t＝"])
def test_a_spreadsheet_finds_no_formula(tmp_path: Path, name: str):
    write(tmp_path, entry(name))
    (row,) = read_csv(tmp_path / "results.csv")
    assert row["file"] == f"'{name}"


def test_pyarrows_own_reader_understands_the_csv(tmp_path: Path):
    from pyarrow import csv as arrow_csv

    write(tmp_path, *(entry(name, make_object(1)) for name in ODD_NAMES))
    options = arrow_csv.ParseOptions(newlines_in_values=True)
    table = arrow_csv.read_csv(tmp_path / "results.csv", parse_options=options)
    assert [plain(name) for name in table["file"].to_pylist()] == ODD_NAMES
    assert table["count"].to_pylist() == [1] * len(ODD_NAMES)


def test_excel_is_told_the_encoding(tmp_path: Path):
    write(tmp_path, entry("ö.jpg"))
    assert (tmp_path / "results.csv").read_bytes().startswith(b"\xef\xbb\xbffile,")


def test_rows_stand_in_the_order_of_the_pictures(tmp_path: Path):
    with Tables(tmp_path, CLASSES) as tables:
        for place in (2, 0, 3, 1):
            tables.add(place, entry(f"{place}.jpg", make_object(1)))
    for table in ("results", "objects"):
        assert [row["file"] for row in read_csv(tmp_path / f"{table}.csv")] == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]


def test_rows_behind_a_gap_are_written_in_the_end(tmp_path: Path):
    with Tables(tmp_path, CLASSES) as tables:
        tables.add(2, entry("2.jpg"))
        tables.add(1, entry("1.jpg"))
    assert [row["file"] for row in read_csv(tmp_path / "results.csv")] == ["1.jpg", "2.jpg"]


def test_rows_can_be_read_while_the_run_goes_on(tmp_path: Path):
    with Tables(tmp_path, CLASSES) as tables:
        for place in range(40):
            tables.add(place, entry(f"{place}.jpg"))
        assert len(read_csv(tmp_path / "results.csv.part")) >= 20
        assert not (tmp_path / "results.csv").exists()
    assert len(read_csv(tmp_path / "results.csv")) == 40


def test_a_run_that_breaks_leaves_the_earlier_tables(tmp_path: Path):
    write(tmp_path, entry("old.jpg"))

    class Broken(Exception):
        pass

    with pytest.raises(Broken), Tables(tmp_path, CLASSES) as tables:
        tables.add(0, entry("new.jpg"))
        raise Broken
    assert [row["file"] for row in read_csv(tmp_path / "results.csv")] == ["old.jpg"]
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".csv", ".csv", ".parquet", ".parquet"]


def test_calibration_and_flags(tmp_path: Path):
    one = entry("a.jpg")
    calibration = Calibration(pixel_width=0.5, pixel_height=0.25, unit="nm", source="user")
    outcome = one.outcome.model_copy(update={"calibration": calibration, "flags": ("constant-image", "dark")})
    write(tmp_path, Entry("a.jpg", "a.jpg", outcome, "succeeded"))
    (row,) = read_csv(tmp_path / "results.csv")
    assert (row["pixel_width"], row["pixel_height"], row["pixel_unit"]) == ("0.5", "0.25", "nm")
    assert row["flags"] == "constant-image dark"


def test_many_rows_go_into_several_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("graticule.tables._ROW_GROUP", 3)
    write(tmp_path, *(entry(f"{number}.jpg") for number in range(8)))
    file = parquet.ParquetFile(tmp_path / "results.parquet")
    assert file.num_row_groups == 3
    assert [row["file"] for row in file.read().to_pylist()] == [f"{number}.jpg" for number in range(8)]
    file.close()


def test_without_pyarrow_the_pip_command_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingPart, match=r'pip install "graticule\[local\]"'):
        Tables(tmp_path, CLASSES)


def test_numbers_below_zero_stay_numbers(tmp_path: Path):
    write(tmp_path, entry("a.jpg", make_object(1, centroid=(-0.5, 1.0))))
    (row,) = read_csv(tmp_path / "objects.csv")
    assert row["centroid_x_px"] == "-0.5"
