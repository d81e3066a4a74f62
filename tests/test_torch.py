"""Packets to torch (multiscale.torch): every packet once, whatever is damaged, in bounded memory."""

import subprocess
import sys
import time
from itertools import islice

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the dataset is for torch (extra torch)")

from torch.utils.data import DataLoader  # noqa: E402

import multiscale as ms  # noqa: E402
from multiscale import Cutout, Geometry, decode_batch  # noqa: E402
from multiscale.avro import read_container, write_container  # noqa: E402
from multiscale.convert import Options, as_embedded, convert_record, embedded_schema  # noqa: E402
from multiscale.schema import embed_cutout, load_schema  # noqa: E402
from multiscale.tensors import tensors_of  # noqa: E402
from multiscale.torch import Counts, PacketDataset, PacketWarning  # noqa: E402

pytestmark = pytest.mark.filterwarnings("error")

PLANES = ("science", "template", "difference")
GEOMETRY = Geometry(8, 2, 1.0)
CLASSES = ("asteroid", "bogus", "SN")
FIELDS = [
    {"name": "label", "type": ["null", "string"]},
    {"name": "number", "type": "int"},
    {"name": "ra", "type": ["null", "double"]},
    {"name": "dec", "type": ["null", "double"]},
]
SCHEMA = embed_cutout({"type": "record", "name": "Labelled", "fields": FIELDS})
EMBEDDED = SCHEMA["fields"][-1]["name"]


def record_of(number, *, planes=PLANES, geometry=GEOMETRY, **changes):
    """A packet whose pixels, label and place are those of its number."""
    rng = np.random.default_rng(number)
    images = {plane: rng.normal(100 * i, 5, (40, 40)) for i, plane in enumerate(planes)}
    images[planes[0]][:, 24:] = np.nan  # the chip ends
    cutout = Cutout.from_images(images, geometry, x=20.25, y=19.5)
    label = CLASSES[number % 3]
    place = {"ra": 7.0 * number % 360, "dec": number % 90 - 45.0}
    return {"label": label, "number": number, **place, EMBEDDED: cutout.to_record(), **changes}


def written(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_container(path, SCHEMA, records)
    return path


@pytest.fixture
def files(tmp_path):
    """Three files of 300, 20 and 40 packets."""
    ends = np.cumsum([0, 300, 20, 40])
    return [
        written(tmp_path / f"{i}.avro", [record_of(n) for n in range(*pair)])
        for i, pair in enumerate(zip(ends, ends[1:]))
    ]


def collected(batches):
    """All batches as one, in numpy."""
    batches = list(batches)
    return {name: np.concatenate([b[name].numpy() for b in batches]) for name in batches[0]}


def test_a_batch_is_what_the_codec_and_the_tensors_give(files):
    records = [record for file in files for record in read_container(file)]
    (group,) = decode_batch(records)
    found = collected(PacketDataset(files, label="label", classes=CLASSES, batch_size=100))
    np.testing.assert_array_equal(found["stamps"], tensors_of(group, PLANES).channels())
    np.testing.assert_array_equal(found["label"], [record["number"] % 3 for record in records])
    np.testing.assert_array_equal(found["offset"], np.stack([group.dx, group.dy], axis=1))
    assert not found["stamps"][:, 3].all()  # the science plane's end of the chip
    assert [files[file].name for file in found["index"][:, 0]] == ["0.avro"] * 300 + ["1.avro"] * 20 + [
        "2.avro"
    ] * 40
    np.testing.assert_array_equal(found["index"][:, 1], [*range(300), *range(20), *range(40)])


def test_types_and_sizes_are_those_that_are_promised(files):
    batches = list(PacketDataset(files, label="number", batch_size=100))
    assert [len(b["stamps"]) for b in batches] == [100, 100, 100, 60]
    for batch in batches:
        assert batch["stamps"].shape[1:] == (6, 2, 8, 8)
        kinds = {name: tensor.dtype for name, tensor in batch.items()}
        assert kinds == {
            "stamps": torch.float32, "position": torch.float32, "offset": torch.float32,
            "label": torch.int64, "index": torch.int64,
        }  # fmt: skip
        assert all(tensor.is_contiguous() for tensor in batch.values())


def test_positions_are_unit_vectors_of_the_sky(tmp_path):
    places = [(0, 0), (90, 0), (180, 0), (0, 90), (12, -90), (None, 3.0), (45, 45)]
    path = written(tmp_path / "a.avro", [record_of(i, ra=r, dec=d) for i, (r, d) in enumerate(places)])
    found = collected(PacketDataset(path))["position"]
    nan, half = [np.nan] * 3, 0.5
    expected = [[1, 0, 0], [0, 1, 0], [-1, 0, 0], [0, 0, 1], [0, 0, -1], nan, [half, half, half**0.5]]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-7)


def test_positions_of_our_alerts_and_of_bare_cutouts(tmp_path):
    record = record_of(1)
    alert = ms.Alert.from_record({
        "specVersion": "1.0", "alertId": "a", "survey": "simulated",
        "detection": {
            "detectionId": "d", "time": 61000.0, "timeScale": "UTC", "band": "g", "ra": 90.0, "dec": 0.0,
        },
        "cutout": record[EMBEDDED],
    })  # fmt: skip
    ms.write_alerts(tmp_path / "alerts.avro", [alert])
    write_container(tmp_path / "cutouts.avro", load_schema("multiscale.Cutout"), [record[EMBEDDED]])
    found = collected(PacketDataset(tmp_path))  # a folder, its files in order
    np.testing.assert_allclose(found["position"], [[0, 1, 0], [np.nan] * 3], atol=1e-7)
    assert "label" not in found


def test_workers_share_the_files_and_lose_nothing(files):
    alone = collected(PacketDataset(files, label="number"))
    dataset = PacketDataset(files, label="number", batch_size=64, shuffle_buffer=50)
    found = collected(DataLoader(dataset, batch_size=None, num_workers=2))
    order = np.argsort(found["label"])
    assert sorted(found["label"]) == list(range(360))
    np.testing.assert_array_equal(found["stamps"][order], alone["stamps"])
    assert dataset.counts() == Counts(given=360)  # told by the workers


def test_more_workers_than_files_lose_nothing(files):
    dataset = PacketDataset(files[1:2], label="number")
    found = collected(DataLoader(dataset, batch_size=None, num_workers=2))
    assert sorted(found["label"]) == list(range(300, 320))


def test_the_order_is_drawn_by_seed_and_epoch(files):
    def order(epoch=0, **options):
        dataset = PacketDataset(files, label="number", shuffle_buffer=100, **options)
        dataset.set_epoch(epoch)
        return collected(dataset)["label"].tolist()

    first = order()
    assert first == order()
    assert sorted(first) == list(range(360))
    assert len({tuple(order(epoch, seed=seed)) for epoch in (0, 1) for seed in (0, 1)}) == 4
    # well mixed: in a drawn order neighbours are 120 apart in the mean, in the files' 1
    assert np.abs(np.diff(first)).mean() > 60


def test_workers_that_live_on_are_told_of_a_new_epoch(files):
    dataset = PacketDataset(files, label="number", shuffle_buffer=400)
    loader = DataLoader(dataset, batch_size=None, num_workers=1, persistent_workers=True)
    orders = []
    for epoch in (0, 1, 0):
        dataset.set_epoch(epoch)
        orders.append(collected(loader)["label"].tolist())
    assert orders[0] == orders[2] != orders[1]


@pytest.mark.parametrize("shuffle_buffer", [1, 7, 255, 256, 359, 1000])
def test_a_buffer_of_any_size_gives_every_packet_once(files, shuffle_buffer):
    found = collected(PacketDataset(files, label="number", batch_size=17, shuffle_buffer=shuffle_buffer))
    assert sorted(found["label"]) == list(range(360))
    alone = collected(PacketDataset(files))["stamps"]
    np.testing.assert_array_equal(found["stamps"], alone[found["label"]])  # rows stay together


def test_packets_are_read_as_batches_are_taken(tmp_path):
    path = written(tmp_path / "a.avro", (record_of(n % 4) for n in range(2000)))
    seen = []
    dataset = PacketDataset(path, label=lambda record: seen.append(1) or 0, batch_size=32, shuffle_buffer=100)
    batches = iter(dataset)
    next(batches)
    assert len(seen) <= 32 + 100 + 256
    for _ in range(10):
        next(batches)
    assert len(seen) <= 11 * 32 + 100 + 256


def test_a_label_of_none_passes_a_packet_over(files):
    dataset = PacketDataset(files, label=lambda r: None if r["label"] == "bogus" else int(r["label"] == "SN"))
    found = collected(dataset)
    assert found["label"].tolist() == [n % 3 // 2 for n in range(360) if n % 3 != 1]
    assert dataset.counts() == Counts(given=240, unlabelled=120)


def broken(record):
    """The record with one bit of its second plane's payload flipped."""
    cutout = record[EMBEDDED]
    planes = [dict(plane) for plane in cutout["planes"]]
    payload = bytearray(planes[1]["payload"])
    payload[5] ^= 4
    planes[1]["payload"] = bytes(payload)
    return {**record, EMBEDDED: {**cutout, "planes": planes}}


def test_what_cannot_be_used_is_said_and_counted(tmp_path):
    records = [record_of(n) for n in range(20)]
    records[3], records[7] = broken(records[3]), broken(records[7])
    records[5] = record_of(5, planes=("science", "difference"))
    records[9] = record_of(9, **{EMBEDDED: None})
    records[11]["label"] = None
    path = written(tmp_path / "a.avro", records)
    dataset = PacketDataset(path, label="label", classes=CLASSES)
    with pytest.warns(PacketWarning, match=r"3 packets passed over, first: packet 3\.planes\[1\].*crc"):
        found = collected(dataset)
    assert found["index"][:, 1].tolist() == [n for n in range(20) if n not in (3, 5, 7, 9, 11)]
    assert dataset.counts() == Counts(given=15, damaged=2, empty=1, incomplete=1, unlabelled=1)
    with pytest.warns(PacketWarning):
        collected(dataset)
    assert dataset.counts().given == 30  # of both passes


def test_a_file_that_ends_early_gives_what_came_before(tmp_path, files):
    whole = files[0].read_bytes()
    files[0].write_bytes(whole[: len(whole) // 2])
    (tmp_path / "3.avro").write_bytes(b"not Avro at all")
    dataset = PacketDataset([*files, tmp_path / "3.avro"], label="number")
    with pytest.warns(PacketWarning) as said:
        found = collected(dataset)["label"].tolist()
    assert [str(w.message).partition(": ")[0].rpartition("/")[2] for w in said] == ["0.avro", "3.avro"]
    n_first = sum(number < 300 for number in found)
    assert 0 < n_first < 300
    assert sorted(found) == [*range(n_first), *range(300, 360)]
    assert dataset.counts() == Counts(given=n_first + 60, damaged=2)


def test_stamps_of_several_layouts_come_in_batches_of_their_own(tmp_path):
    geometries = [Geometry(8, 2, 1.0), Geometry(8, 2, 2.0), Geometry(4, 3, 1.0)]
    path = written(tmp_path / "a.avro", [record_of(n, geometry=geometries[n % 3]) for n in range(30)])
    batches = list(PacketDataset(path, label="number", batch_size=8))
    shapes = [tuple(b["stamps"].shape[2:]) for b in batches]
    assert sorted(set(shapes)) == [(2, 8, 8), (3, 4, 4)]
    assert sorted(n for b in batches for n in b["label"].tolist()) == list(range(30))
    assert all((b["label"] % 3 == 2).all() == (b["stamps"].shape[-1] == 4) for b in batches)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"label": "label"}, "label 'asteroid'.*classes="),
        ({"label": "label", "classes": ("SN",)}, "label 'asteroid'.*expected one of SN"),
        ({"label": "kind"}, "no field 'kind' in a record of label, number"),
    ],
)
def test_labels_that_make_no_sense_end_the_reading(files, options, said):
    with pytest.raises(ValueError, match=said):
        next(iter(PacketDataset(files, **options)))


def test_settings_that_make_no_sense_are_refused_at_once(files, tmp_path):
    for options in ({"batch_size": 0}, {"shuffle_buffer": -1}, {"planes": ()}, {"normalization": "best"}):
        with pytest.raises(ValueError, match="expected 1 or more"):
            PacketDataset(files, **options)
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "absent.avro"):
        with pytest.raises(FileNotFoundError, match="no Avro file"):
            PacketDataset(path)


def test_the_dataset_costs_little_more_than_reading_decoding_and_normalising(tmp_path):
    """Processor time, the best of rounds in turn; measured 0.97 to 1.05."""
    path = written(tmp_path / "a.avro", [record_of(n % 20) for n in range(2048)])

    def by_hand():
        with read_container(path) as reader:
            while records := list(islice(reader, 256)):
                for group in decode_batch(records):
                    tensors_of(group, PLANES).channels()

    spent = {by_hand: [], lambda: list(PacketDataset(path)): []}
    for _ in range(5):
        for call, found in spent.items():
            begin = time.process_time()
            call()
            found.append(time.process_time() - begin)
    alone, dataset = map(min, spent.values())
    assert dataset < 1.5 * alone


@pytest.mark.shared_data
def test_real_alerts_with_their_classes(shared_data, tmp_path):
    """Real ZTF alerts, converted as a survey would, come out as the codec gives them one by one."""
    source = sorted((shared_data / "ztf_labelled").glob("*.avro"))[0]
    records, labels = [], []
    with read_container(source) as reader:
        schema, originals = reader.schema, list(islice(reader, 120))
    for record in originals:
        alert, cutout = convert_record(record, None, Options(survey="ZTF", encoding="rice"))
        records.append(as_embedded(alert, cutout))
        labels.append(record["label_hint"])
    schema = embedded_schema(schema, alert.cutout_fields)
    write_container(tmp_path / "ztf.avro", schema, records)
    classes = sorted(set(labels))
    dataset = PacketDataset(
        tmp_path / "ztf.avro", planes=("difference",), label="label_hint", classes=classes, batch_size=50
    )
    found = collected(dataset)
    assert dataset.counts() == Counts(given=120)
    assert [classes[i] for i in found["label"]] == labels
    expected = np.array([[r["ra"], r["dec"]] for r in records])
    x, y, z = found["position"].T.astype(float)
    np.testing.assert_allclose(np.degrees(np.arctan2(y, x)) % 360, expected[:, 0], atol=1e-4)
    np.testing.assert_allclose(np.degrees(np.arcsin(z)), expected[:, 1], atol=1e-4)
    for i in (0, 57, 119):
        cutout = Cutout.from_record(records[i][EMBEDDED])
        levels, plane = cutout.levels("difference"), cutout.plane("difference")
        scaled = (levels - plane.background) * 2.0 ** np.arange(4)[:, None, None] / plane.noise
        np.testing.assert_allclose(
            found["stamps"][i, 0], np.nan_to_num(np.arcsinh(scaled)), rtol=1e-5, atol=1e-5
        )
        np.testing.assert_array_equal(found["stamps"][i, 1], np.isfinite(levels))


def test_reading_packets_needs_no_torch():
    script = "import sys; sys.modules['torch'] = None; import multiscale, multiscale.tensors"
    subprocess.run([sys.executable, "-c", script], check=True)
